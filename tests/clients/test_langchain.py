"""LangChain's own standard tests for chat models, with langchain-openai in front of a running server.

SORSA_URL is the server's base URL, ending in /v1; it serves `smollm2` and the adapter `pirate`.
"""

import os

import pytest
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestChat(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {
            "model": "smollm2",
            "base_url": os.environ["SORSA_URL"],
            "api_key": "unused",
            "temperature": 0,
            "stream_usage": True,
            "max_retries": 0,
        }

    @property
    def standard_chat_model_params(self):
        # Long enough for every check, short enough for a slow machine.
        return {"max_tokens": 48, "timeout": 120}

    @property
    def supports_model_override(self):
        return True

    @property
    def model_override_value(self):
        return "pirate"

    @property
    def has_tool_calling(self):
        return False

    @property
    def has_structured_output(self):
        return False

    @property
    def supports_json_mode(self):
        return False
