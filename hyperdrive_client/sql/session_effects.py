"""Could this text leave something behind in the session that runs it?

The answer errs on the side of yes: a yes costs a look at the session after the transaction, a wrong
no would show one client's settings, locks or temporary tables to the next. So only what is known to
be harmless is a no: a list of first keywords, and of functions of pg_catalog.

A text does not show what the database makes of it: triggers, rules, views, defaults (a sequence's
``lastval``), operators, casts, and functions of a user that go by a built-in one's name or are
written like a column. And SET LOCAL of a custom setting leaves that with an empty value, but so
does ``DISCARD ALL``.
"""

from __future__ import annotations

import re

# Longer texts are not looked at: scanning one would hold up everybody else.
MAX_SCANNED_BYTES = 64 * 1024

# A literal without escapes, a quoted name (of which a quote is kept), a comment, or a number. Read
# from left to right, so that a quote within a comment, or a comment within a literal, is not taken
# for what it is not. The set in front is what makes the search fast. No group is possessive: Python
# 3.11.2 mistakes those.
_TOKENS = re.compile(
    rb"""['"\-/\d](?:
      (?<=')[^'\\]*+'
    | (?<=")(?:(pg_settings)"|[^"]*+("))
    | (?<=-)-[^\n\r]*+
    | (?<=/)\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/
    | (?<=\d)(?<![$\w\x80-\xff]\d)[\d.]*\b
    )""",
    re.VERBOSE,
)
# What the tokens above cannot tell apart: escapes, dollar quotes, nested comments, open quotes,
# names in Unicode escapes, and what may be the last byte of a character in an encoding that only
# clients use (Big5, Shift JIS …); none has a quote there.
_UNCLEAR = re.compile(rb"""[\\'\x00]|\$(?!\d)|/\*|\*/|&"|[\x80-\xff][@[-^`{-~]""")

# EXPLAIN is not here: with ANALYZE it runs EXECUTE, DECLARE or CREATE TABLE AS.
_HARMLESS_FIRST_WORDS = frozenset(
    b"abort analyze begin close commit copy declare delete end fetch insert lock merge move"
    b" release rollback savepoint select show start table truncate update vacuum values"
    b" with".split()
)
# SET LOCAL, TRANSACTION and CONSTRAINTS end with the transaction, but local.x is a setting's name.
_SET_FOR_TRANSACTION = re.compile(
    rb"\s*set\s+(?:local|transaction|constraints)\s+[^\s.=]", re.IGNORECASE
)
_FIRST_WORD = re.compile(rb"[\s(]*([a-z_]\w*)?", re.IGNORECASE)

_NAME = rb"""(?:[\w$\x80-\xff]++|")"""
# Where a parenthesis follows a name that is no function: the target of INSERT, MERGE and COPY, an
# alias, a common table expression, a type. Then the keywords that could be functions elsewhere.
_NOT_A_CALL = re.compile(
    rb"""(?:\A|\()\s*(?:copy|(?:insert|merge)\s+into)\s+(?:NAME\s*\.\s*)?NAME(?:\s*\()?
    | \A\s*copy\s*\( | \bas\s+(?:not\s+materialized|NAME)\s*\( | \bwith\s+(?:recursive\s+)?NAME\s*\(
    | ::\s*(?:NAME\s*\.\s*)?NAME\s*\(
    | \bon\s+conflict\s*\([^()]*\)\s*do\b | \b(?:order|group|partition)\s+by\s*\(
    | \)\s*(?:over|filter)\s*\(
    | \bjoin\s*\(\s*(?:(?:select|values|with)\b|(?=[^(),]*\sjoin\s))""".replace(b"NAME", _NAME),
    re.IGNORECASE | re.VERBOSE,
)
# What is left of SELECT INTO, cursors that outlive their transaction, and the view whose rule
# turns an UPDATE into set_config.
_NEVER = re.compile(rb"\binto\b|\bwith\s+hold\b|\bpg_settings\b", re.IGNORECASE)
_WORD = rb"(?<![\w$\x80-\xff])[\w$\x80-\xff]++"
_CALL = re.compile(rb"""(?:(WORD|[^\w\s.])\s*+\.\s*+)?(WORD|")\s*+\(""".replace(b"WORD", _WORD))

# PostgreSQL, "SQL Key Words": none of these can be the name of a function.
_KEYWORDS_BEFORE_PARENTHESIS = (
    b"all and any array as between case cast distinct else except exists from group grouping having"
    b" in intersect lateral limit not offset on only or returning row select some then union using"
    b" values when where with"
)
# Functions of pg_catalog that read at most. Those that act on the session (set_config, advisory
# locks of the session, setseed, lo_*, nextval's memory for currval …) are not here.
_HARMLESS_FUNCTIONS = (
    b"abs acos age array_agg array_append array_cat array_length array_lower array_ndims"
    b" array_position array_positions array_prepend array_remove array_replace array_to_json"
    b" array_to_string array_upper ascii asin atan atan2 avg bit_and bit_length bit_or bool_and"
    b" bool_or btrim cardinality cbrt ceil ceiling char_length chr clock_timestamp coalesce"
    b" col_description concat concat_ws convert_from convert_to corr cos count cume_dist"
    b" current_database current_schema current_schemas current_setting date date_bin date_part"
    b" date_trunc decode degrees dense_rank div encode every exp extract first_value float4 float8"
    b" floor format format_type gcd gen_random_uuid generate_series generate_subscripts get_bit"
    b" get_byte greatest has_any_column_privilege has_column_privilege has_database_privilege"
    b" has_function_privilege has_schema_privilege has_sequence_privilege has_table_privilege"
    b" initcap int2 int4 int8 isfinite json_agg json_array_elements json_array_elements_text"
    b" json_array_length json_build_array json_build_object json_each json_each_text"
    b" json_extract_path json_extract_path_text json_object json_object_agg json_object_keys"
    b" json_populate_record json_populate_recordset json_strip_nulls json_to_record"
    b" json_to_recordset json_typeof jsonb_agg jsonb_array_elements jsonb_array_elements_text"
    b" jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text"
    b" jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_agg"
    b" jsonb_object_keys jsonb_path_exists jsonb_path_match jsonb_path_query"
    b" jsonb_path_query_array jsonb_path_query_first jsonb_populate_record jsonb_pretty jsonb_set"
    b" jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_typeof justify_days"
    b" justify_hours justify_interval lag last_value lcm lead least left length like ln localtime"
    b" localtimestamp log log10 lower lpad ltrim make_date make_interval make_time make_timestamp"
    b" make_timestamptz max md5 min mod mode now nth_value ntile nullif numeric obj_description"
    b" octet_length overlaps overlay percent_rank percentile_cont percentile_disc"
    b" pg_advisory_xact_lock pg_backend_pid pg_blocking_pids pg_collation_is_visible"
    b" pg_column_size pg_database_size pg_describe_object pg_encoding_to_char"
    b" pg_function_is_visible pg_get_constraintdef pg_get_expr pg_get_function_arguments"
    b" pg_get_function_identity_arguments pg_get_function_result pg_get_functiondef"
    b" pg_get_indexdef pg_get_partkeydef pg_get_ruledef pg_get_serial_sequence pg_get_triggerdef"
    b" pg_get_userbyid pg_get_viewdef pg_is_in_recovery pg_relation_size pg_size_pretty pg_sleep"
    b" pg_table_is_visible pg_table_size pg_total_relation_size pg_try_advisory_xact_lock"
    b" pg_type_is_visible pg_typeof pi position power quote_ident quote_literal quote_nullable"
    b" radians random range_agg rank regexp_count regexp_like regexp_match regexp_matches"
    b" regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr regr_slope repeat"
    b" replace reverse right round row_number row_to_json rpad rtrim session_user sha224 sha256"
    b" sha384 sha512 shobj_description sign sin split_part sqrt starts_with statement_timestamp"
    b" stddev stddev_pop stddev_samp string_agg string_to_array string_to_table strpos substr"
    b" substring sum tan text timeofday to_ascii to_char to_date to_hex to_json to_jsonb to_number"
    b" to_regclass to_regtype to_timestamp to_tsquery to_tsvector transaction_timestamp translate"
    b" trim trunc ts_headline ts_rank txid_current txid_current_snapshot unnest upper uuid_send"
    b" var_pop var_samp variance version websearch_to_tsquery width_bucket xmlagg"
)
_HARMLESS_CALLS = frozenset((_KEYWORDS_BEFORE_PARENTHESIS + b" " + _HARMLESS_FUNCTIONS).split())


def skeleton_of(text: bytes) -> bytes | None:
    """``text`` without literals, numbers, comments and what is in quoted names.

    A quoted name is one quote. ``None`` if the text can't be told from its literals.
    """
    skeleton = _TOKENS.sub(rb"\1\2 ", text)
    return None if _UNCLEAR.search(skeleton) else skeleton


def statement_changes_session(statement: bytes) -> bool:
    """Of one statement's skeleton: whether it may change state that outlives its transaction."""
    word = first_word(statement)
    if word == b"set":
        return not _SET_FOR_TRANSACTION.match(statement)
    if word not in _HARMLESS_FIRST_WORDS:
        return bool(statement.strip())
    rest = without_non_calls(statement)
    return bool(_NEVER.search(rest)) or not all(
        call_is_harmless(schema, name) for schema, name in calls(rest)
    )


def first_word(statement: bytes) -> bytes:
    """The first keyword, in lower case."""
    first = _FIRST_WORD.match(statement)
    return (first[1] or b"").lower() if first else b""


def without_non_calls(statement: bytes) -> bytes:
    """A skeleton without those names before a parenthesis that are no function's."""
    return _NOT_A_CALL.sub(b" , (", statement)


def calls(statement: bytes) -> list[tuple[bytes, bytes]]:
    """Schema and name, in lower case, of what looks like a call."""
    return [(schema.lower(), name.lower()) for schema, name in _CALL.findall(statement)]


def call_is_harmless(schema: bytes, name: bytes) -> bool:
    """Whether it is a keyword, or a function of pg_catalog that reads at most."""
    return (not schema or schema == b"pg_catalog") and name in _HARMLESS_CALLS
