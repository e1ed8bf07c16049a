"""Texts that were written under JSON schemas, validated by Python's jsonschema.

    python3 tests/python/schema_texts.py <TEXTS

Each line of TEXTS, which examples/write_schema_texts.rs writes, has a `schema` and a `text`. Every text
must be JSON and satisfy its schema, formats included. Numbers are read as decimals: whatever is not exact
is found. Needs what schema_texts_requirements.txt lists; no model.
"""

import functools
import json
import re
import sys
from decimal import Decimal, localcontext

import referencing.exceptions
from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError
from jsonschema.validators import extend

# The newest in which a schema is valid is the one that it is read in.
DRAFTS = [Draft202012Validator, Draft7Validator, Draft4Validator]
# Formats that are obeyed. One that cannot be checked here, for want of a package, is an error.
FORMATS = {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"}
CHECKER = Draft202012Validator.FORMAT_CHECKER
# Texts that most be judged for the comparison to say something, and the part that may not be.
LEAST_TEXTS, MOST_SKIPPED = 500, 0.05


def is_integer(_, value):
    return isinstance(value, (int, Decimal)) and not isinstance(value, bool) and value == int(value)


def listed_whatever_its_format(error, schema):
    """A format says nothing about a value that `enum` or `const` lists: docs/api.md."""
    def lists(part):
        if isinstance(part, dict):
            if error.instance in part.get("enum", []) or error.instance == part.get("const"):
                return True
            return any(map(lists, part.values()))
        return isinstance(part, list) and any(map(lists, part))
    return error.validator == "format" and lists(schema)


# What is deliberately otherwise than jsonschema has it: functions whose docs say why.
DIFFERENCES = [listed_whatever_its_format]


@functools.cache
def exact(draft):
    """A draft that takes decimals for the numbers that they are."""
    return extend(draft, type_checker=draft.TYPE_CHECKER.redefine("integer", is_integer))


def draft_of(schema):
    """The draft of a schema; None where it is valid in none, so that nobody can say what it means."""
    # To older drafts the newest one's tuples say nothing, and the other way round.
    drafts = DRAFTS[:1] if '"prefixItems":' in json.dumps(schema) else DRAFTS
    for draft in drafts:
        try:
            # Expressions are ECMA-262's, and not all are Python's.
            draft.check_schema(schema, format_checker=FormatChecker(formats=()))
            return draft
        except SchemaError:
            continue
    return None


@functools.lru_cache(8)
def validator(schema):
    draft = draft_of(json.loads(schema))
    if draft is None:
        return None
    return exact(draft)(json.loads(schema, parse_float=Decimal), format_checker=CHECKER)


def no_number(text):
    raise ValueError(f"{text} is no JSON")


def read(text, pairs):
    return json.loads(text, parse_float=Decimal, parse_constant=no_number, object_pairs_hook=pairs)


def reason(schema, text):
    """Why a text does not satisfy a schema; None where it does. Raises where jsonschema cannot say."""
    judge = validator(schema)
    if judge is None:
        raise LookupError("valid in no draft")
    # A name may stand twice, and readers keep the first or the last.
    for pairs in (dict, lambda pairs: dict(reversed(pairs))):
        try:
            value = read(text, pairs)
        except ValueError as error:
            return f"no JSON: {error}"
        for error in judge.iter_errors(value):
            if not any(differs(error, judge.schema) for differs in DIFFERENCES):
                return f"{error.json_path}: {error.message}"
    return None


def main():
    if missing := FORMATS - set(CHECKER.checkers):
        sys.exit(f"these formats cannot be checked: {sorted(missing)}")
    texts, wrong, skipped = 0, 0, {}
    for line in sys.stdin:
        case = json.loads(line, parse_float=str)
        # As it was written: no double stands between the server and here.
        schema, text = line[len('{"schema":'):line.rindex(',"text":')], case["text"]
        texts += 1
        try:
            found = reason(schema, text)
        except (re.error, RecursionError, LookupError, referencing.exceptions.Unresolvable) as error:
            kind = type(error).__name__
            skipped[kind] = skipped.get(kind, 0) + 1
            continue
        if found is not None:
            wrong += 1
            print(f"not valid: {found[:500]}\n    schema: {schema[:2000]}\n    text:   {text[:2000]!r}")
    print(f"{texts} texts, {wrong} not valid; not judged: {skipped or 'none'}")
    if texts < LEAST_TEXTS or sum(skipped.values()) > MOST_SKIPPED * texts:
        sys.exit("too few texts were judged: the comparison says little")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    with localcontext() as context:
        context.prec = 2000
        main()
