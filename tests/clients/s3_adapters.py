#!/usr/bin/env python3
"""Serves an adapter from an S3 server that somebody else wrote, and holds it against the same from
its directory.

    s3_adapters.py SORSA BASE ADAPTER

The server is moto's; it checks signatures and rights. Exits 1 where anything differs.
"""

import json
import logging
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import boto3
from moto.core import enable_iam_authentication
from moto.server import ThreadedMotoServer

BUCKET, PREFIX = "models", "adapters/acme/v1"


def call(url, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def fill(endpoint, adapter):
    """Puts the adapter there; the key of one who may read it, and nothing else."""
    anyone = {"endpoint_url": endpoint, "region_name": "us-east-1",
              "aws_access_key_id": "root", "aws_secret_access_key": "root"}
    s3 = boto3.client("s3", **anyone)
    s3.create_bucket(Bucket=BUCKET)
    for file in pathlib.Path(adapter).iterdir():
        s3.upload_file(str(file), BUCKET, f"{PREFIX}/{file.name}")
    iam = boto3.client("iam", **anyone)
    iam.create_user(UserName="sorsa")
    policy = {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]}]}
    iam.put_user_policy(UserName="sorsa", PolicyName="read", PolicyDocument=json.dumps(policy))
    return iam.create_access_key(UserName="sorsa")["AccessKey"]


class Sorsa:
    def __init__(self, binary, base, cache, endpoint, key, secret):
        environment = os.environ | {
            "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        arguments = ["serve", base, "--served-model-name", "base", "--port", "0",
                     "--allow-runtime-adapters", "--adapter-root", "/",
                     "--adapter-source", f"s3://{BUCKET}", "--adapter-cache-dir", cache]
        self.process = subprocess.Popen(
            [binary, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
        self.log = ""
        for line in self.process.stderr:
            self.log += line
            if found := re.search(r" on (http://[^,]*),", line):
                self.url = found[1]
                return
        sys.exit(f"the server did not start:\n{self.log}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        rest = self.process.stderr.read()
        self.process.wait()
        self.log += rest

    def put(self, name, path):
        return call(self.url, "PUT", f"/admin/adapters/{name}", {"path": path})

    def ask(self, name):
        body = {"model": name, "prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}
        status, answer = call(self.url, "POST", "/v1/completions", body)
        assert status == 200, answer
        return answer["choices"][0]["text"], answer["system_fingerprint"]


def main(binary, base, adapter):
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    endpoint = "http://{}:{}".format(*moto.get_host_and_port())
    key = fill(endpoint, adapter)
    source = f"s3://{BUCKET}/{PREFIX}"
    with tempfile.TemporaryDirectory() as folder, enable_iam_authentication():
        with Sorsa(binary, base, f"{folder}/a", endpoint, key["AccessKeyId"],
                   key["SecretAccessKey"]) as sorsa:
            status, answer = sorsa.put("stored", source)
            assert status == 201, answer
            status, answer = sorsa.put("local", str(pathlib.Path(adapter).resolve()))
            assert status == 201, answer
            assert sorsa.ask("stored") == sorsa.ask("local") != sorsa.ask("base")
            status, answer = sorsa.put("absent", f"s3://{BUCKET}/nothing")
            assert status == 400 and "there is no adapter_config.json" in str(answer), answer
        assert key["SecretAccessKey"] not in sorsa.log
        with Sorsa(binary, base, f"{folder}/b", endpoint, key["AccessKeyId"], "wrong") as sorsa:
            status, answer = sorsa.put("stored", source)
            assert status == 400 and "refused, with status 403" in str(answer), answer
    moto.stop()
    print("an adapter from S3 answers as the same from its directory")


main(*sys.argv[1:])
