"""What is asked of the origin about its catalogue.

Each query has rows of text columns, and works on PostgreSQL 13 to 18. They are run in their order,
on one connection of the configuration's own user: the first puts the search_path in force on which
the operators in the others, and the names in the definitions of views, depend.
"""

from __future__ import annotations

from typing import Final

# The functions whose results depend on their arguments alone, by the word of PostgreSQL or of the
# authors of an extension in C. An immutable function in any other language may read tables. An
# aggregate is as fine as what it is made of.
_FINE = """
WITH extended AS MATERIALIZED (
  SELECT d.objid AS oid FROM pg_catalog.pg_depend d
  WHERE d.classid = 1255 AND d.refclassid = 3079 AND d.deptype = 'e'),
plain AS MATERIALIZED (
  SELECT p.oid FROM pg_catalog.pg_proc p
  WHERE p.provolatile = 'i' AND (p.oid < 16384 AND p.pronamespace = 11
    OR p.prokind <> 'a' AND p.prolang IN (12, 13) AND p.oid IN (SELECT oid FROM extended))),
fine AS MATERIALIZED (
  SELECT p.oid FROM plain p UNION ALL
  SELECT a.aggfnoid FROM pg_catalog.pg_aggregate a JOIN extended e ON e.oid = a.aggfnoid
  WHERE NOT EXISTS (
    SELECT FROM unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn,
      a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[]) f
    WHERE f <> 0 AND f NOT IN (SELECT oid FROM plain)))
"""

_SEARCH_PATH = "SELECT pg_catalog.set_config('search_path', 'pg_catalog', false)"

# Name and value; the settings as sessions of this user begin with them.
_SESSION = """
SELECT s.name::pg_catalog.text, s.reset_val::pg_catalog.text FROM pg_catalog.pg_settings s
WHERE s.name IN ('search_path', 'default_transaction_isolation', 'server_encoding',
  'standard_conforming_strings', 'server_version_num')
UNION ALL SELECT 'user', current_user::pg_catalog.text
UNION ALL SELECT 'event_triggers', pg_catalog.count(*)::pg_catalog.text
  FROM pg_catalog.pg_event_trigger e WHERE e.evtenabled <> 'D' AND e.evtevent <> 'login'
"""

# Name, and whether the user may look into it.
_SCHEMAS = """
SELECT n.nspname::pg_catalog.text,
  pg_catalog.has_schema_privilege(n.oid, 'USAGE')::pg_catalog.text
FROM pg_catalog.pg_namespace n
"""

# OID, schema, name, kind, persistence, row security, whether it is stored in another way than
# PostgreSQL's own, and the types of the columns.
_RELATIONS = """
SELECT c.oid::pg_catalog.text, n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
  c.relkind::pg_catalog.text, c.relpersistence::pg_catalog.text,
  c.relrowsecurity::pg_catalog.text, (c.relam NOT IN (0, 2))::pg_catalog.text,
  (SELECT pg_catalog.string_agg(DISTINCT a.atttypid::pg_catalog.text, ' ')
   FROM pg_catalog.pg_attribute a
   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname !~ '^pg_(toast|temp)'
"""

# OIDs of parent and child, by inheritance or as a partition.
_INHERITANCE = """
SELECT i.inhparent::pg_catalog.text, i.inhrelid::pg_catalog.text FROM pg_catalog.pg_inherits i
"""

# OID and definition, of materialized ones as well; those of the system are not read anyway.
_VIEWS = """
SELECT c.oid::pg_catalog.text, pg_catalog.pg_get_viewdef(c.oid)
FROM pg_catalog.pg_class c WHERE c.relkind IN ('v', 'm') AND c.oid >= 16384
"""

# OID of the relation, name of the column, and whether its type is a date or a timestamp; of columns
# that have such a type, or the name of one that has.
_DATES = """
WITH named AS (
  SELECT a.attrelid, a.attname, a.atttypid IN (1082, 1083, 1114, 1184) AS is_date
  FROM pg_catalog.pg_attribute a
  WHERE a.attrelid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped)
SELECT n.attrelid::pg_catalog.text, n.attname::pg_catalog.text, n.is_date::pg_catalog.text
FROM named n WHERE n.attname IN (SELECT m.attname FROM named m WHERE m.is_date)
"""

# Schema, name, least and largest number of arguments, volatility, whether it is PostgreSQL's own,
# whether it is fine, whether an argument or the result is of a type whose text depends on more than
# the value, and whether it may be written like a column of a row.
_FUNCTIONS = (
    _FINE
    + """
SELECT n.nspname::pg_catalog.text, p.proname::pg_catalog.text,
  (p.pronargs - p.pronargdefaults - (p.provariadic <> 0)::int4)::pg_catalog.text,
  CASE WHEN p.provariadic <> 0 THEN '1000' ELSE p.pronargs::pg_catalog.text END,
  p.provolatile::pg_catalog.text,
  (p.oid < 16384 AND p.pronamespace = 11)::pg_catalog.text,
  (p.oid IN (SELECT oid FROM fine))::pg_catalog.text,
  (p.proargtypes::oid[] || p.prorettype && ARRAY(SELECT t.oid FROM pg_catalog.pg_type t
    WHERE t.oid < 16384 AND (t.typname ~ '^_?(reg|aclitem)' OR t.typname ~ '^_?timetz$')
    AND t.typname !~ '^_?reg(config|dictionary)'))::pg_catalog.text,
  (p.pronargs > 0 AND f.typtype IN ('c', 'd', 'p'))::pg_catalog.text
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  LEFT JOIN pg_catalog.pg_type f ON f.oid = p.proargtypes[0]
WHERE p.prokind <> 'p'
"""
)

# Schema, name and categories of the operands' types, of operators whose functions are not fine.
_OPERATORS = (
    _FINE
    + """
SELECT n.nspname::pg_catalog.text, o.oprname::pg_catalog.text,
  coalesce(l.typcategory, '')::pg_catalog.text, coalesce(r.typcategory, '')::pg_catalog.text
FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
  LEFT JOIN pg_catalog.pg_type l ON l.oid = o.oprleft
  LEFT JOIN pg_catalog.pg_type r ON r.oid = o.oprright
WHERE o.oid >= 16384 AND o.oprcode::oid NOT IN (SELECT oid FROM fine)
"""
)

# OID, schema, name, kind, base type of a domain, element type of an array, whether it is
# PostgreSQL's own, whether its input and output are fine; rows of tables and their arrays apart.
# What sends and receives text depends on the client's encoding, and so is never immutable.
_TYPES = (
    _FINE
    + """
SELECT t.oid::pg_catalog.text, n.nspname::pg_catalog.text, t.typname::pg_catalog.text,
  t.typtype::pg_catalog.text, t.typbasetype::pg_catalog.text,
  coalesce(e.oid, 0)::pg_catalog.text, (t.oid < 16384)::pg_catalog.text,
  (NOT EXISTS (
    SELECT FROM unnest(ARRAY[t.typinput, t.typoutput]::oid[]) f
    WHERE f >= 16384 AND f NOT IN (SELECT oid FROM plain))
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_proc p WHERE p.oid IN (t.typreceive, t.typsend) AND p.oid >= 16384
    AND (p.provolatile = 'v' OR p.oid NOT IN (SELECT oid FROM extended))))::pg_catalog.text
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_type e ON e.typarray = t.oid
WHERE t.typtype <> 'c' AND coalesce(e.typtype, 'b') <> 'c'
"""
)

# OIDs of source and target, context, method, whether the function is fine, and whether it makes a
# string of a number; of users' casts.
_CASTS = (
    _FINE
    + """
SELECT c.castsource::pg_catalog.text, c.casttarget::pg_catalog.text,
  c.castcontext::pg_catalog.text, c.castmethod::pg_catalog.text,
  (c.castfunc IN (SELECT oid FROM fine))::pg_catalog.text,
  (s.typcategory = 'N' AND t.typcategory = 'S')::pg_catalog.text
FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_type s ON s.oid = c.castsource
  JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
WHERE c.oid >= 16384
"""
)

# OIDs of types that are compared and sorted by functions that are not fine.
_COMPARISONS = (
    _FINE
    + """
SELECT DISTINCT c.opcintype::pg_catalog.text FROM pg_catalog.pg_opclass c
WHERE c.oid >= 16384 AND c.opcmethod IN (403, 405) AND (
  EXISTS (SELECT FROM pg_catalog.pg_amproc a
    WHERE a.amprocfamily = c.opcfamily AND a.amproc::oid NOT IN (SELECT oid FROM fine))
  OR EXISTS (SELECT FROM pg_catalog.pg_amop a JOIN pg_catalog.pg_operator o ON o.oid = a.amopopr
    WHERE a.amopfamily = c.opcfamily AND o.oprcode::oid NOT IN (SELECT oid FROM fine)))
"""
)

# OIDs of the table and of the function, and pg_trigger.tgtype; not those of foreign keys.
_TRIGGERS = """
SELECT t.tgrelid::pg_catalog.text, t.tgfoid::pg_catalog.text, t.tgtype::pg_catalog.text
FROM pg_catalog.pg_trigger t WHERE t.tgfoid >= 16384 AND t.tgenabled <> 'D'
"""

# OIDs of the table that is referenced and of the other, what happens there on DELETE and on UPDATE,
# and a pair of their columns; of the referenced one only if it changes by its name alone.
_FOREIGN_KEYS = """
SELECT c.confrelid::pg_catalog.text, c.conrelid::pg_catalog.text,
  c.confdeltype::pg_catalog.text, c.confupdtype::pg_catalog.text,
  CASE WHEN f.attgenerated = '' THEN f.attname END::pg_catalog.text, a.attname::pg_catalog.text
FROM pg_catalog.pg_constraint c
  CROSS JOIN LATERAL ROWS FROM (unnest(c.confkey), unnest(c.conkey)) AS k (other, own)
  JOIN pg_catalog.pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = k.other
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own
WHERE c.contype = 'f'
"""

# OIDs of relations with rules of users' own.
_RULES = """
SELECT DISTINCT r.ev_class::pg_catalog.text FROM pg_catalog.pg_rewrite r
WHERE r.rulename <> '_RETURN' AND r.oid >= 16384 AND r.ev_enabled <> 'D'
"""

# OID, schema, name, least and largest number of arguments, kind, language, volatility, extension,
# whether it may be written like a column of a row, its own search_path, whose rights it has if not
# the caller's, whether it changes in another way what names or literals mean, its source text or a
# definition, whether it is in SQL's standard form, and OIDs of others that it depends on; of users'
# functions. The definition of one in PL/pgSQL has types that its parser knows.
_BODIES = r"""
SELECT p.oid::pg_catalog.text, n.nspname::pg_catalog.text, p.proname::pg_catalog.text,
  (p.pronargs - p.pronargdefaults - (p.provariadic <> 0)::int4)::pg_catalog.text,
  CASE WHEN p.provariadic <> 0 THEN '1000' ELSE p.pronargs::pg_catalog.text END,
  p.prokind::pg_catalog.text, l.lanname::pg_catalog.text, p.provolatile::pg_catalog.text,
  (SELECT e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e
    ON e.oid = d.refobjid WHERE d.classid = 1255 AND d.objid = p.oid AND d.refclassid = 3079
    AND d.deptype = 'e')::pg_catalog.text,
  (p.pronargs > 0 AND f.typtype IN ('c', 'd', 'p'))::pg_catalog.text,
  (SELECT pg_catalog.substr(c, 13) FROM pg_catalog.unnest(p.proconfig) c
    WHERE c LIKE 'search\_path=%')::pg_catalog.text,
  CASE WHEN p.prosecdef THEN pg_catalog.pg_get_userbyid(p.proowner) END::pg_catalog.text,
  EXISTS (SELECT FROM pg_catalog.unnest(p.proconfig) c
    WHERE c ~ '^(role|session_authorization|standard_conforming_strings)=')::pg_catalog.text,
  CASE WHEN l.lanname = 'plpgsql' THEN
    pg_catalog.format('CREATE %s f(%s) %s LANGUAGE plpgsql AS %L',
      CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
      (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ',
          CASE a.mode WHEN 'o' THEN 'OUT' WHEN 't' THEN 'OUT' WHEN 'b' THEN 'INOUT' ELSE 'IN' END,
          pg_catalog.quote_ident(nullif(a.name, '')),
          CASE WHEN t.typtype = 'c' OR t.oid = 2249 THEN 'record'
            WHEN t.oid = 1790 THEN 'refcursor'
            WHEN t.typcategory = 'A' THEN 'text[]' ELSE 'text' END), ', ' ORDER BY a.position)
        FROM ROWS FROM (unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])),
          unnest(p.proargnames), unnest(p.proargmodes)) WITH ORDINALITY
          AS a (type, name, mode, position)
        JOIN pg_catalog.pg_type t ON t.oid = a.type),
      CASE WHEN p.prokind = 'p' THEN '' WHEN p.prorettype = 2279 THEN 'RETURNS trigger'
        WHEN p.prorettype = 3838 THEN 'RETURNS event_trigger'
        WHEN p.prorettype = 2278 THEN 'RETURNS void'
        ELSE pg_catalog.concat('RETURNS ', CASE WHEN p.proretset THEN 'SETOF ' END,
          CASE WHEN p.proallargtypes IS NULL THEN 'text' ELSE 'record' END) END,
      p.prosrc)
  WHEN to_jsonb(p) ->> 'prosqlbody' IS NOT NULL THEN pg_catalog.pg_get_functiondef(p.oid)
  WHEN l.lanname = 'sql' THEN p.prosrc END,
  (to_jsonb(p) ->> 'prosqlbody' IS NOT NULL)::pg_catalog.text,
  (SELECT pg_catalog.string_agg(d.refobjid::pg_catalog.text, ' ') FROM pg_catalog.pg_depend d
    WHERE d.classid = 1255 AND d.objid = p.oid AND d.refclassid = 1255 AND d.refobjid >= 16384)
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  LEFT JOIN pg_catalog.pg_type f ON f.oid = p.proargtypes[0]
WHERE p.oid >= 16384
"""

# OIDs of the relation and of a users' function that is called by a policy of it, or (if it is
# written to) a default, a constraint, an index, the key of its partitions, or the condition of a
# trigger, and whether it is a policy; 0 for what may be called anywhere: by a domain, an operator,
# a cast, a type, an order. Function 0 is any: the policy reads a view or what has policies itself.
_HIDDEN_CALLS = """
SELECT DISTINCT coalesce(a.adrelid, c.conrelid, i.indrelid, k.partrelid, t.tgrelid, y.polrelid,
    CASE WHEN d.classid IN (1247, 2603, 2616) THEN 0 END)::pg_catalog.text,
  d.refobjid::pg_catalog.text, (y.polrelid IS NOT NULL)::pg_catalog.text
FROM pg_catalog.pg_depend d
  LEFT JOIN pg_catalog.pg_attrdef a ON d.classid = 2604 AND a.oid = d.objid
  LEFT JOIN pg_catalog.pg_constraint c ON d.classid = 2606 AND c.oid = d.objid
  LEFT JOIN pg_catalog.pg_index i ON d.classid = 1259 AND i.indexrelid = d.objid
  LEFT JOIN pg_catalog.pg_partitioned_table k ON d.classid = 1259 AND k.partrelid = d.objid
  LEFT JOIN pg_catalog.pg_trigger t ON d.classid = 2620 AND t.oid = d.objid
    AND t.tgfoid <> d.refobjid
  LEFT JOIN pg_catalog.pg_policy y ON d.classid = 3256 AND y.oid = d.objid
WHERE d.refclassid = 1255 AND d.refobjid >= 16384
  AND coalesce(a.adrelid, c.conrelid, i.indrelid, k.partrelid, t.tgrelid, y.polrelid,
    CASE WHEN d.classid IN (1247, 2603, 2616) THEN 0 END) IS NOT NULL
UNION SELECT y.polrelid::pg_catalog.text, '0', 'true'
  FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_policy y ON y.oid = d.objid
  JOIN pg_catalog.pg_class c ON c.oid = d.refobjid
  WHERE d.classid = 3256 AND d.refclassid = 1259 AND d.refobjid <> y.polrelid
    AND (c.relkind IN ('v', 'f') OR c.relrowsecurity)
UNION SELECT '0', o.oprcode::oid::pg_catalog.text, 'false' FROM pg_catalog.pg_operator o
  WHERE o.oprcode::oid >= 16384
UNION SELECT '0', c.castfunc::oid::pg_catalog.text, 'false' FROM pg_catalog.pg_cast c
  WHERE c.castfunc::oid >= 16384
"""

QUERIES: Final[dict[str, bytes]] = {
    "search_path": _SEARCH_PATH.encode(),
    "session": _SESSION.encode(),
    "schemas": _SCHEMAS.encode(),
    "relations": _RELATIONS.encode(),
    "inheritance": _INHERITANCE.encode(),
    "views": _VIEWS.encode(),
    "dates": _DATES.encode(),
    "functions": _FUNCTIONS.encode(),
    "operators": _OPERATORS.encode(),
    "types": _TYPES.encode(),
    "casts": _CASTS.encode(),
    "comparisons": _COMPARISONS.encode(),
    "triggers": _TRIGGERS.encode(),
    "foreign_keys": _FOREIGN_KEYS.encode(),
    "rules": _RULES.encode(),
    "bodies": _BODIES.encode(),
    "hidden_calls": _HIDDEN_CALLS.encode(),
}
"""Name of a query → its text. ``Catalogue.of`` takes the rows under the same names."""

_NO_TEMPORARY_TABLES = (
    " AND c.{} OPERATOR(pg_catalog.<>) ALL (ARRAY(SELECT t.oid FROM pg_catalog.pg_class t"
    " WHERE t.relpersistence OPERATOR(pg_catalog.=) 't'))"
)
_NO_TEMPORARY_SCHEMAS = (
    " AND c.{} OPERATOR(pg_catalog.<>) ALL (ARRAY(SELECT n.oid FROM pg_catalog.pg_namespace n"
    " WHERE n.nspname OPERATOR(pg_catalog.~) '^pg_(toast_)?temp_'))"
)
# Catalogues whose rows decide what a statement reads, writes, or is allowed to. Temporary tables,
# which come and go, are nothing to us.
_COUNTED = {
    "pg_attribute": " AND c.attnum OPERATOR(pg_catalog.>) 0"
    + _NO_TEMPORARY_TABLES.format("attrelid"),
    "pg_constraint": _NO_TEMPORARY_TABLES.format("conrelid"),
    "pg_trigger": _NO_TEMPORARY_TABLES.format("tgrelid"),
    "pg_attrdef": _NO_TEMPORARY_TABLES.format("adrelid"),
    "pg_class": _NO_TEMPORARY_SCHEMAS.format("relnamespace"),
    "pg_type": _NO_TEMPORARY_SCHEMAS.format("typnamespace"),
    "pg_namespace": _NO_TEMPORARY_SCHEMAS.format("oid"),
}
_COUNTED_WHOLE = (
    "pg_proc pg_rewrite pg_inherits pg_policy pg_operator pg_cast pg_opclass pg_amop pg_amproc"
    " pg_aggregate pg_enum pg_extension pg_auth_members pg_db_role_setting pg_database"
    " pg_foreign_table pg_event_trigger pg_ts_config pg_ts_config_map pg_ts_dict pg_collation"
)
# The rows, each by the transaction that wrote it; ANALYZE and VACUUM write in place and leave that.
# Of a transaction's number only its age is to be had cheaply: the difference to another's stays. A
# row that came with PostgreSQL has none.
_ROWS = (
    "(SELECT pg_catalog.concat(pg_catalog.count(*), ' ', pg_catalog.sum(pg_catalog.hashint8("
    "(SELECT pg_catalog.age('3'::pg_catalog.xid)::pg_catalog.int8)"
    " OPERATOR(pg_catalog.-) pg_catalog.age(c.xmin))))"
    " FROM pg_catalog.{} c WHERE pg_catalog.age(c.xmin) OPERATOR(pg_catalog.<) 2147483647{})"
)

FINGERPRINT: Final[bytes] = (
    "SELECT pg_catalog.md5(pg_catalog.concat_ws(' ',"
    " pg_catalog.date_part('epoch', pg_catalog.pg_conf_load_time()),"
    " (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', r.oid, r.rolname, r.rolsuper,"
    " r.rolinherit, r.rolbypassrls), ' ' ORDER BY r.rolname) FROM pg_catalog.pg_roles r), "
    + ", ".join(
        [_ROWS.format(name, condition) for name, condition in _COUNTED.items()]
        + [_ROWS.format(name, "") for name in _COUNTED_WHOLE.split()]
    )
    + "))"
).encode()
"""One row, one column: a text that is another after any change to the catalogue, or to the
configuration, by which an answer or a verdict may become another."""
