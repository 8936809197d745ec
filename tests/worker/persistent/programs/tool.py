"""A compiler of sorts that can stay: each argument of a request is something to do.

Reads and writes the worker protocol by itself, from its documentation.
"""

# As a program that knows nothing of us would be written.
# ruff: noqa: PTH104, PTH109, PTH123, PTH208, PTH211

import base64
import json
import os
import subprocess
import sys
import time

JSON = "--json" in sys.argv


def varint(stream):
    value = shift = 0
    while True:
        byte = stream.read(1)
        if not byte:
            sys.exit(0)
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7


class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def read(self, count):
        self.at += count
        return self.data[self.at - count : self.at]


def fields(data):
    """Number and value of each field; only the two wire types that requests have."""
    stream = Bytes(data)
    while stream.at < len(data):
        tag = varint(stream)
        yield tag >> 3, varint(stream) if tag & 7 == 0 else stream.read(varint(stream))


def requests():
    if JSON:
        for line in sys.stdin:
            request = json.loads(line)
            inputs = {
                each["path"]: base64.b64decode(each["digest"]).decode()
                for each in request.get("inputs", ())
            }
            yield request.get("arguments", []), inputs, request.get("sandboxDir", "")
    while True:
        data = sys.stdin.buffer.read(varint(sys.stdin.buffer))
        arguments, inputs, sandbox = [], {}, ""
        for number, value in fields(data):
            if number == 1:
                arguments.append(value.decode())
            elif number == 2:
                each = dict(fields(value))
                inputs[each[1].decode()] = each[2].decode()
            elif number == 6:
                sandbox = value.decode()
            else:
                raise AssertionError(number)
        yield arguments, inputs, sandbox


def encode(value):
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def answer(code, output):
    if JSON:
        # Without a line break, which no one requires.
        sys.stdout.write(json.dumps({"exitCode": code, "output": output, "requestId": 0}))
        sys.stdout.flush()
        return
    data = b"\x08" + encode(code) + b"\x12" + encode(len(output.encode())) + output.encode()
    sys.stdout.buffer.write(encode(len(data)) + data)
    sys.stdout.buffer.flush()


held = None
for served, (arguments, inputs, sandbox) in enumerate(requests(), 1):
    code, said = 0, []
    for argument in arguments:
        what, _, value = argument.partition("=")
        if what == "say":
            said.append(value)
        elif what == "exit":
            code = int(value)
        elif what == "read":
            with open(value) as file:
                said.append(file.read())
        elif what == "write":
            name, _, text = value.partition("=")
            with open(name, "w") as file:
                file.write(text)
        elif what == "hold":
            name, _, text = value.partition("=")
            held = open(name, "w")  # noqa: SIM115 - it stays open until the next request
            held.write(text)
            held.flush()
        elif what == "held":
            held.seek(0)
            held.write(value)
            held.close()
        elif what == "list":
            said.append(" ".join(sorted(os.listdir(value or "."))))
        elif what == "pid":
            said.append(str(os.getpid()))
        elif what == "parent":
            said.append(str(os.getppid()))
        elif what == "served":
            said.append(str(served))
        elif what == "cwd":
            said.append(os.getcwd())
        elif what == "env":
            with open("/proc/self/environ", "rb") as file:
                said.append(file.read().replace(b"\0", b" ").decode().strip())
        elif what == "argv":
            said.append(" ".join(sys.argv[1:]))
        elif what == "inputs":
            said.append(repr(inputs) + sandbox)
        elif what == "tell":
            with open(value, "w") as file:
                file.write(f"{os.getpid()}\n")
        elif what == "spawn":
            child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            with open(value, "w") as file:
                file.write(f"{child.pid}\n")
        elif what == "sleep":
            time.sleep(float(value))
        elif what == "die":
            sys.stderr.write("out of luck\n")
            sys.stderr.flush()
            os._exit(3)
        elif what == "garbage":
            os.write(1, b"\xff" * 20 if not JSON else b"warning: no\n")
            time.sleep(1000)
        elif what == "link":
            name, _, target = value.partition("=")
            os.rename(name, f"{name}.old")
            os.symlink(target, name)
        else:
            raise AssertionError(argument)
    answer(code, " ".join(said))
