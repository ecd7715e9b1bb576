"""Calls another function by boto3, which every function has, as on Lambda; where the platform is, it is told.

    forebay deploy hello examples/hello
    forebay deploy caller examples/caller
    curl localhost:8480/fn/caller
"""

import json

import boto3

functions = boto3.client("lambda")


def handler(event, context):
    answer = functions.invoke(FunctionName="hello", Payload=json.dumps({"name": "caller"}))
    return {"hello said": json.load(answer["Payload"])}
