"""A relay-only WebRTC peer. Its arguments: URL of the mailbox, role (offer or answer), JSON of an RTCIceServer."""

import asyncio
import json
import sys
import urllib.request

from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCSessionDescription,
)

url, role, ice = sys.argv[1:]


def request(path, body=None):
    with urllib.request.urlopen(url + path, data=body) as answer:
        return answer.status, answer.read()


async def put(name, value):
    await asyncio.to_thread(request, "/put/" + name, json.dumps(value).encode())


async def take(name):
    while True:
        status, body = await asyncio.to_thread(request, "/take/" + name)
        if status == 200:
            return RTCSessionDescription(**json.loads(body))


def described(pc):
    if "a=candidate:" not in pc.localDescription.sdp:
        raise ConnectionError("no candidates")
    return {"type": pc.localDescription.type, "sdp": pc.localDescription.sdp}


def message(nth):
    """As in webrtc.html."""
    return bytes((nth * 31 + at) % 256 for at in range(1 + nth * 400))


async def offer(pc):
    channel = pc.createDataChannel("lab")
    opened, echoes = asyncio.Event(), asyncio.Queue()
    channel.on("open", opened.set)
    channel.on("message", echoes.put_nowait)
    await pc.setLocalDescription(await pc.createOffer())
    await put("offer", described(pc))
    await pc.setRemoteDescription(await take("answer"))
    await opened.wait()
    right = 0
    for nth in range(40):
        channel.send(message(nth))
        right += await echoes.get() == message(nth)
    await put("report", {"right": right})


async def answer(pc):
    @pc.on("datachannel")
    def echo(channel):
        channel.on("message", channel.send)

    await pc.setRemoteDescription(await take("offer"))
    await pc.setLocalDescription(await pc.createAnswer())
    await put("answer", described(pc))


async def main():
    configuration = RTCConfiguration(
        iceServers=[RTCIceServer(**json.loads(ice))], iceTransportPolicy=RTCIceTransportPolicy.RELAY
    )
    pc = RTCPeerConnection(configuration)

    @pc.on("connectionstatechange")
    async def watch():
        if pc.connectionState == "failed":
            await put("report", {"failed": role})

    try:
        await (offer(pc) if role == "offer" else answer(pc))
        await asyncio.Event().wait()
    except Exception as error:
        await put("report", {"failed": role, "error": repr(error)})
        raise


asyncio.run(main())
