"""What somebody would write with paho-mqtt for Python: publish the lines of standard input and wait
for all of them, or receive this many messages onto standard output.

paho_client.py PORT CERTS TOPIC publish all
paho_client.py PORT CERTS TOPIC receive QOS COUNT
"""

import collections
import sys
import threading

import paho.mqtt.client as mqtt

port, certs, topic, work, *rest = sys.argv[1:]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.tls_set(f"{certs}/ca.pem", f"{certs}/device.pem.crt", f"{certs}/private.pem.key")


def publish():
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect("localhost", int(port))
    client.loop_start()
    connected.wait()
    # It queues what is more than its window, but no more than there are packet identifiers.
    waiting = collections.deque()
    for line in sys.stdin.buffer:
        if len(waiting) == 60_000:
            waiting.popleft().wait_for_publish()
        waiting.append(client.publish(topic, line.rstrip(b"\n"), qos=1))
    for message in waiting:
        message.wait_for_publish()
    client.disconnect()
    client.loop_stop()


def receive(qos, count):
    left = int(count)

    def on_message(_client, _data, message):
        nonlocal left
        sys.stdout.buffer.write(message.payload + b"\n")
        left -= 1
        if left == 0:
            client.disconnect()

    client.on_connect = lambda *_: client.subscribe(topic, int(qos))
    client.on_message = on_message
    client.connect("localhost", int(port))
    client.loop_forever()


if work == "publish":
    publish()
else:
    receive(*rest)
