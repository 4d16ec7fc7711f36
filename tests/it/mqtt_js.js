// MQTT.js at the broker on this port. `subscribe PORT FILTER` prints `subscribed`, then each message as a line of JSON.
// `publish PORT` publishes each line of standard input, which has that form. Bytes are in hexadecimal.
"use strict";

const { once } = require("node:events");
const lines = require("node:readline");
const mqtt = require("mqtt");

const fail = (error) => {
    console.error(error);
    process.exit(1);
};

function print(topic, payload, { qos, retain, properties = {} }) {
    const { correlationData } = properties;
    if (correlationData) properties.correlationData = correlationData.toString("hex");
    console.log(JSON.stringify({ topic, qos, retain, payload: payload.toString("hex"), properties }));
}

async function publish(client) {
    for await (const line of lines.createInterface({ input: process.stdin })) {
        const { topic, payload, properties, ...options } = JSON.parse(line);
        const { correlationData } = properties;
        if (correlationData !== undefined) properties.correlationData = Buffer.from(correlationData, "hex");
        await client.publishAsync(topic, Buffer.from(payload, "hex"), { ...options, properties });
    }
    await client.endAsync();
}

async function main([command, port, filter]) {
    const client = mqtt.connect(`mqtt://localhost:${port}`, { protocolVersion: 5 });
    client.on("error", fail);
    if (command === "subscribe") client.on("message", print);
    await once(client, "connect");
    if (command === "publish") return publish(client);
    await client.subscribeAsync(filter, { qos: 2 });
    console.log("subscribed");
}

main(process.argv.slice(2)).catch(fail);
