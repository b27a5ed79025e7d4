"""Could this text leave something behind in the session that runs it?

The answer errs on the side of yes: a yes costs a ``DISCARD ALL`` after the transaction, a wrong no
would show one client's settings, locks or temporary tables to the next. So only what is known to
be harmless is a no: a list of first keywords, and of functions of pg_catalog.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Longer texts are not looked at: scanning one would hold up everybody else.
MAX_SCANNED_BYTES = 64 * 1024

# A literal, a quoted name (kept), a comment, or a number. Read from left to right, so that a quote
# within a comment, or a comment within a literal, is not taken for what it is not.
_TOKENS = re.compile(
    rb"""'[^']*' | ("[^"]*") | --[^\n\r]* | /\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/
    | (?<![$\w])\d[\d.]*\b""",
    re.VERBOSE,
)
# What the tokens above cannot tell apart: escapes, dollar quotes, nested comments, open quotes.
_UNCLEAR = re.compile(rb"""[\\'\x00]|\$(?!\d)|/\*|\*/""")

_HARMLESS_FIRST_WORDS = frozenset(
    b"abort analyze begin close commit copy declare delete end explain fetch insert lock merge"
    b" move release rollback savepoint select show start table truncate update vacuum values"
    b" with".split()
)
# SET LOCAL, TRANSACTION and CONSTRAINTS end with the transaction.
_SET_FOR_TRANSACTION = re.compile(rb"\s*set\s+(?:local|transaction|constraints)\b", re.IGNORECASE)
_FIRST_WORD = re.compile(rb"[\s(]*([a-z_]\w*)?", re.IGNORECASE)
_NEVER = re.compile(rb"\b(?:temp|temporary|hold|prepared|prepare)\b", re.IGNORECASE)
# A name before a parenthesis that is no call: INSERT INTO t (…), … AS alias (…), COPY t (…).
_NOT_A_CALL = re.compile(
    rb"""\b(?:into|as|copy|constraint|recursive)\s+
    (?:(?:\w+|"[^"]*")\s*\.\s*)?(?:\w+|"[^"]*")\s*\(""",
    re.IGNORECASE | re.VERBOSE,
)
_CALL = re.compile(rb"""((?:[\w$\x80-\xff]+|"[^"]*"|[^\w\s.])\s*\.\s*)?([\w$\x80-\xff]+|")\s*\(""")

_KEYWORDS_BEFORE_PARENTHESIS = (
    b"all and any array as between bigint bit by case cast char character check conflict cube"
    b" decimal default distinct do else except exclude exists filter float from group grouping"
    b" having in inner integer intersect interval is isnull join key lateral left like limit"
    b" materialized national not notnull null numeric offset on only or order outer over overlaps"
    b" partition primary references returning right rollup row rows select set sets similar"
    b" smallint some table then time timestamp timestamptz timetz union unique update using values varbit"
    b" varchar varying verbose when where window with within zone"
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
    b" floor format format_type gcd generate_series generate_subscripts get_bit get_byte"
    b" gen_random_uuid greatest has_any_column_privilege has_column_privilege"
    b" has_database_privilege has_function_privilege has_schema_privilege has_sequence_privilege"
    b" has_table_privilege initcap int2 int4 int8 isfinite json_agg json_array_elements"
    b" json_array_elements_text json_array_length json_build_array json_build_object json_each"
    b" json_each_text json_extract_path json_extract_path_text json_object json_object_agg"
    b" json_object_keys json_populate_record json_populate_recordset json_strip_nulls"
    b" json_to_record json_to_recordset json_typeof jsonb_agg jsonb_array_elements"
    b" jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each"
    b" jsonb_each_text jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object"
    b" jsonb_object_agg jsonb_object_keys jsonb_path_exists jsonb_path_match jsonb_path_query"
    b" jsonb_path_query_array jsonb_path_query_first jsonb_populate_record jsonb_pretty jsonb_set"
    b" jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_typeof justify_days"
    b" justify_hours justify_interval lag last_value lcm lead least left length ln localtime"
    b" localtimestamp log log10 lower lpad ltrim make_date make_interval make_time make_timestamp"
    b" make_timestamptz max md5 min mod mode now nth_value ntile nullif numeric obj_description"
    b" octet_length overlay percent_rank percentile_cont percentile_disc pg_advisory_xact_lock"
    b" pg_backend_pid pg_blocking_pids pg_column_size pg_database_size pg_describe_object"
    b" pg_encoding_to_char pg_function_is_visible pg_get_constraintdef pg_get_expr"
    b" pg_get_function_arguments pg_get_function_identity_arguments pg_get_function_result"
    b" pg_get_functiondef pg_get_indexdef pg_get_partkeydef pg_get_ruledef pg_get_serial_sequence"
    b" pg_get_triggerdef pg_get_userbyid pg_get_viewdef pg_is_in_recovery pg_relation_size"
    b" pg_size_pretty pg_sleep pg_table_is_visible pg_table_size pg_total_relation_size"
    b" pg_try_advisory_xact_lock pg_type_is_visible pg_typeof pi position power"
    b" quote_ident quote_literal quote_nullable radians random range_agg rank regexp_count"
    b" regexp_like regexp_match regexp_matches regexp_replace regexp_split_to_array"
    b" regexp_split_to_table regexp_substr regr_slope repeat replace reverse right round"
    b" row_number row_to_json rpad rtrim session_user sha224 sha256 sha384 sha512"
    b" shobj_description sign sin split_part sqrt starts_with statement_timestamp stddev"
    b" stddev_pop stddev_samp string_agg string_to_array string_to_table strpos substr substring"
    b" sum tan text timeofday to_ascii to_char to_date to_hex to_json to_jsonb to_number"
    b" to_regclass to_regtype to_timestamp to_tsquery to_tsvector transaction_timestamp translate"
    b" trim trunc ts_headline ts_rank txid_current txid_current_snapshot unnest upper uuid_send"
    b" var_pop var_samp variance version websearch_to_tsquery width_bucket xmlagg"
)
_HARMLESS_CALLS = frozenset((_KEYWORDS_BEFORE_PARENTHESIS + b" " + _HARMLESS_FUNCTIONS).split())


def changes_session(text: bytes) -> bool:
    """Whether ``text``, one Query or Parse, may change state that outlives its transaction.

    ``text`` is in any client encoding in which bytes below 128 are ASCII, as in all that
    PostgreSQL's servers accept; for the others ask nothing and take it as yes.
    """
    if len(text) > MAX_SCANNED_BYTES:
        return True
    return _skeleton_changes_session(_TOKENS.sub(rb"\1 ", text))


@lru_cache(maxsize=4096)
def _skeleton_changes_session(skeleton: bytes) -> bool:
    if _UNCLEAR.search(skeleton) or _NEVER.search(skeleton):
        return True
    return any(map(_statement_changes_session, skeleton.split(b";")))


def _statement_changes_session(statement: bytes) -> bool:
    first = _FIRST_WORD.match(statement)
    word = (first[1] or b"").lower() if first else b""
    if word == b"set":
        return not _SET_FOR_TRANSACTION.match(statement)
    if word not in _HARMLESS_FIRST_WORDS:
        return bool(statement.strip())
    return any(map(_call_changes_session, _CALL.finditer(_NOT_A_CALL.sub(b" , (", statement))))


def _call_changes_session(call: re.Match[bytes]) -> bool:
    schema, name = call[1], call[2].lower()
    if schema and schema.rstrip(b". \t\r\n").lower() != b"pg_catalog":
        return True
    return name not in _HARMLESS_CALLS
