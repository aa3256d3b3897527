"""Runs a job through a host's runner, as a server does over ssh. Sent to the Python of the host through stdin.

    job.py ZIPAPP COMMAND start JOB SCRIPT    reserve, prepare and start it
    job.py ZIPAPP COMMAND end JOB             wait for its end; print {"exit_code": …, "log": …}; forget it

COMMAND is the installed `pool-runner`; ZIPAPP, what it runs, has the frames that are spoken over its bridge.
"""

import json
import subprocess
import sys

PATIENCE_S = 30


def main(argv):
    """One of the two."""
    sys.path.insert(0, argv[1])
    bridge = Bridge(argv[2])
    bridge.ask("hello", protocol=[2, 2], pool="b" * 32, epoch=1)
    if argv[3] == "start":
        bridge.ask("reserve", job=argv[4], gpus=[], ttl_s=60)
        bridge.ask("prepare", job=argv[4], task={"script": argv[5]})
        bridge.ask("start", job=argv[4])
        return
    log, eof = b"", False
    while not eof:
        head, body = bridge.ask("read_log", job=argv[4], offset=len(log), wait_s=PATIENCE_S)
        log, eof = log + body, head["eof"]
    ends = [job["exit"]["exit_code"] for job in bridge.ask("jobs")[0]["jobs"] if job["job"] == argv[4]]
    bridge.ask("forget", job=argv[4])
    print(json.dumps({"exit_code": ends[0], "log": log.decode()}))


class Bridge:
    """One connection, one request at a time."""

    def __init__(self, command):
        from pool.runner import frames

        self.frames, self.decoder = frames, frames.Decoder()
        self.process = subprocess.Popen([command, "bridge"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def ask(self, verb, **head):
        """Head and body of the answer; what the runner refuses ends it all."""
        frame = self.frames.Frame(self.frames.REQUEST, 1, dict(head, verb=verb))
        self.process.stdin.write(self.frames.encode(frame))
        while True:
            chunk = self.process.stdout.read(1 << 16)
            if not chunk:
                sys.exit("the runner hung up")
            for answer in self.decoder.feed(chunk):
                if answer.kind == self.frames.ERROR:
                    sys.exit("%s: %s" % (verb, answer.head))
                if answer.kind == self.frames.REPLY:
                    return answer.head, answer.body


if __name__ == "__main__":
    main(sys.argv)
