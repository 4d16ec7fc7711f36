"""Subscribes with paho-mqtt to the topic t of the broker on this port, and prints the properties of a message."""

import json
import sys

import paho.mqtt.client as mqtt


def print_properties(client, userdata, message):
    properties = {}
    for name, value in vars(message.properties).items():
        if name in ("packetType", "types", "names", "properties"):
            continue
        properties[name] = value.hex() if isinstance(value, bytes) else value
    print(json.dumps(properties), flush=True)


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.on_message = print_properties
client.on_subscribe = lambda *_: print("subscribed", flush=True)
client.on_connect = lambda client, *_: client.subscribe("t", 1)
client.connect("localhost", int(sys.argv[1]))
client.loop_forever()
