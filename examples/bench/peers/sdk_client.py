"""The publish and subscribe sample of the AWS IoT Device SDK for Python v1, as it is used from a
script: publish the lines of standard input, waiting for each or for all at the end, or receive so
many messages onto standard output.

sdk_client.py PORT CERTS TOPIC publish each|all
sdk_client.py PORT CERTS TOPIC receive QOS COUNT
"""

import os
import sys
import threading

from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTClient

port, certs, topic, work, *rest = sys.argv[1:]
client = AWSIoTMQTTClient(f"bench-{os.getpid()}")
client.configureEndpoint("localhost", int(port))
client.configureCredentials(
    f"{certs}/ca.pem", f"{certs}/private.pem.key", f"{certs}/device.pem.crt"
)
client.configureAutoReconnectBackoffTime(1, 32, 20)
client.configureOfflinePublishQueueing(-1)
client.configureDrainingFrequency(2)
client.configureConnectDisconnectTimeout(10)
client.configureMQTTOperationTimeout(5)


def publish(how):
    lines = [line.rstrip(b"\n").decode() for line in sys.stdin.buffer]
    client.connect()
    if how == "each":
        for line in lines:
            client.publish(topic, line, 1)
    else:
        acknowledged = threading.Semaphore(0)
        for line in lines:
            client.publishAsync(topic, line, 1, ackCallback=lambda mid: acknowledged.release())
        for _ in lines:
            acknowledged.acquire()
    client.disconnect()


def receive(qos, count):
    left = int(count)
    done = threading.Event()

    def on_message(_client, _data, message):
        nonlocal left
        sys.stdout.buffer.write(message.payload + b"\n")
        left -= 1
        if left == 0:
            done.set()

    client.connect()
    client.subscribe(topic, int(qos), on_message)
    done.wait()
    sys.stdout.flush()
    client.disconnect()


if work == "publish":
    publish(*rest)
else:
    receive(*rest)
