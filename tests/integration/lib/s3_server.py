"""A server of S3, moto's, with a bucket and two users that it knows by their keys. Needs moto[s3], flask, flask-cors.

The first line that it prints is JSON: its port, and ``all`` and ``add`` (user, password). The second user may remove
nothing but locks. Each line that it reads is JSON and does what the administrator of the server could do: ``{"list":
PREFIX}``, ``{"read": KEY}``, ``{"write": KEY, "content": BASE64}``; the answer is a line of JSON.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
from typing import Any

import boto3  # type: ignore[import-not-found,unused-ignore]
from moto import settings  # type: ignore[import-not-found,unused-ignore]
from moto.s3.models import s3_backends  # type: ignore[import-not-found,unused-ignore]
from moto.server import ThreadedMotoServer  # type: ignore[import-not-found,unused-ignore]

BUCKET = "media"
REGION = "us-east-1"
EVERYTHING = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
#: As docs/backup.md has it.
ADDING = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:ListBucket"], "Resource": "*"}
LOCKS = {"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{BUCKET}/*/locks/*"}


def key_of(iam: Any, name: str, *statements: dict[str, Any]) -> dict[str, str]:
    """Make a user who may do what the statements say; answers its keys."""
    iam.create_user(UserName=name)
    policy = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {"user": key["AccessKeyId"], "password": key["SecretAccessKey"]}


def main() -> None:
    """Serve until standard input ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    how = {"endpoint_url": f"http://{host}:{port}", "region_name": REGION}
    iam = boto3.client("iam", **how)
    known = {"all": key_of(iam, "all", EVERYTHING), "add": key_of(iam, "add", ADDING, LOCKS)}
    boto3.client("s3", **how).create_bucket(Bucket=BUCKET)
    # From now on whoever asks has to be known, and signs.
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    sys.stdout.write(json.dumps({"port": port, **known}) + "\n")
    sys.stdout.flush()
    (account,) = s3_backends
    store = s3_backends[account]["aws"]
    for line in sys.stdin:
        wanted: dict[str, str] = json.loads(line)
        answer: dict[str, Any] = {}
        if "list" in wanted:
            found = {name: store.get_object(BUCKET, name) for name in store.buckets[BUCKET].keys}
            answer["sizes"] = {name: one.size for name, one in found.items() if name.startswith(wanted["list"])}
        elif "read" in wanted:
            answer["content"] = base64.b64encode(store.get_object(BUCKET, wanted["read"]).value).decode()
        else:
            store.put_object(BUCKET, wanted["write"], base64.b64decode(wanted["content"]))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    server.stop()


if __name__ == "__main__":
    main()
