// Drizzle's cases, over whichever driver; its own builder where it has one, else its `sql`.

import { eq, gte, sql } from "drizzle-orm";
import * as t from "drizzle-orm/pg-core";
import * as program from "./program.mjs";
import { ID, VALUES, fails, same } from "./program.mjs";

const bytea = t.customType({ dataType: () => "bytea" });
const values = t.pgTable("driver_types", {
  id: t.bigint({ mode: "bigint" }).primaryKey(),
  small: t.smallint(),
  medium: t.integer(),
  large: t.bigint({ mode: "bigint" }),
  exact: t.numeric(),
  single: t.real(),
  double: t.doublePrecision(),
  truth: t.boolean(),
  words: t.text(),
  bytes: bytea(),
  document: t.json(),
  documents: t.jsonb(),
  numbers: t.integer().array(),
  labels: t.text().array(),
  moment: t.timestamp({ withTimezone: true }),
  nothing: t.text(),
});
const cached = t.pgTable("driver_cached", { id: t.integer().primaryKey(), name: t.text() });
const rows = t.pgTable("driver_rows", { id: t.integer().primaryKey(), name: t.text() });

/**
 * `using(work)` gives `work` a database of Drizzle's on one connection; `rowsOf` the rows of what
 * `execute` returns; `cancel(using)` cancels by the driver's means.
 */
export function cases({ version, using, rowsOf, cancel }) {
  const both = (work) => using((one) => using((two) => work(one, two)));
  const execute = async (db, query) => rowsOf(await db.execute(query));

  async function connect() {
    await using(async (db) => {
      const found = await execute(db, sql`SELECT * FROM pg_tables`);
      same(found.some((row) => row.tablename === "driver_rows"), true);
    });
  }

  // Its arrays hold no NULL: over Postgres.js it reads them as 'NULL'.
  async function types() {
    const labels = VALUES.labels.filter((label) => label !== null);
    const row = { ...VALUES, id: BigInt(ID), large: BigInt(VALUES.large), numbers: [1, -3], labels };
    await using(async (db) => {
      await db.insert(values).values(row);
      same(await db.select().from(values).where(eq(values.id, row.id)), [row]);
      await db.delete(values).where(eq(values.id, row.id));
      const { words, exact } = VALUES;
      const query = sql`SELECT ${words}::text AS words, ${exact}::numeric AS exact, ${null}::text AS nothing`;
      same({ ...(await execute(db, query))[0] }, { words, exact, nothing: null });
    });
  }

  async function prepared() {
    await both(async (one, two) => {
      const prepare = (db) =>
        db
          .select({ name: cached.name })
          .from(cached)
          .where(eq(cached.id, sql.placeholder("id")))
          .prepare("name_of");
      const statements = [prepare(one), prepare(two)];
      for (const id of [1, 2, 1]) {
        for (const statement of statements) {
          same(await statement.execute({ id }), [{ name: id === 1 ? "one" : "two" }]);
        }
      }
    });
  }

  const names = async (db) => {
    const found = await db.select().from(rows).where(eq(rows.id, ID));
    return found.map((row) => row.name);
  };

  async function transactions() {
    await both(async (one, two) => {
      await one.transaction(async (tx) => {
        await tx.insert(rows).values({ id: ID, name: "committed" });
        same(await names(two), []);
      });
      same(await names(two), ["committed"]);
      const lost = one.transaction(async (tx) => {
        await tx.update(rows).set({ name: "lost" }).where(eq(rows.id, ID));
        same(await names(tx), ["lost"]);
        throw Object.assign(new Error("rolled back"), { code: "ours" });
      });
      await fails(lost, "ours");
      same(await names(two), ["committed"]);
      const wrong = one.transaction(async (tx) => {
        await tx.delete(rows).where(eq(rows.id, ID));
        await tx.execute(sql`SELECT 1 / 0`);
      });
      await fails(wrong, "22012");
      same(await names(one), ["committed"]);
      await two.delete(rows).where(gte(rows.id, ID));
    });
  }

  async function errors() {
    await using(async (db) => {
      await fails(db.insert(cached).values({ id: 1, name: "again" }), "23505");
      for (const [code, statement] of Object.entries(program.WRONG)) {
        await fails(db.execute(sql.raw(statement)), code);
      }
      same((await execute(db, sql`SELECT 1 AS one`))[0].one, 1);
    });
  }

  async function fifty() {
    const twice = (db) => async () => (await execute(db, sql.raw(program.SLEEP)))[0].pid;
    await program.fifty(() => using(async (db) => [await twice(db)(), await twice(db)()]));
  }

  async function cache() {
    await both(async (one, two) => {
      for (const db of [one, one, two]) {
        const found = await db.select().from(cached).where(eq(cached.id, 1));
        same(found, [{ id: 1, name: "one" }]);
      }
    });
  }

  const all = { connect, types, prepared, transactions, errors, fifty, cache };
  return { version, ...all, ...(cancel && { cancel: () => cancel(using) }) };
}

export const version = () => console.log(program.versionOf("drizzle-orm"));
