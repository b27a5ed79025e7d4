// Kysely over node-postgres, as the page has it: a Pool with at most 5.

import { Kysely, PostgresDialect, sql } from "kysely";
import pg from "pg";
import * as program from "./program.mjs";
import { ID, URL, VALUES, fails, same } from "./program.mjs";

async function using(work, max = 5) {
  const dialect = new PostgresDialect({ pool: new pg.Pool({ connectionString: URL, max }) });
  const db = new Kysely({ dialect });
  return work(db).finally(() => db.destroy());
}

const both = (work) => using((one) => using((two) => work(one, two), 1), 1);

async function connect() {
  await using(async (db) => {
    const { rows } = await sql`SELECT * FROM pg_tables`.execute(db);
    same(rows.some((row) => row.tablename === "driver_rows"), true);
  });
}

async function types() {
  await using(async (db) => {
    await db.insertInto("driver_types").values(VALUES).execute();
    const read = db.selectFrom("driver_types").selectAll().where("id", "=", ID);
    same(await read.execute(), [VALUES]);
    await db.deleteFrom("driver_types").where("id", "=", ID).execute();
    const { labels, bytes, moment, nothing } = VALUES;
    const { rows } = await sql`SELECT ${labels}::text[] AS labels, ${bytes}::bytea AS bytes,
      ${moment}::timestamptz AS moment, ${nothing}::text AS nothing`.execute(db);
    same(rows, [{ labels, bytes, moment, nothing }]);
  });
}

const names = async (db) => {
  const rows = await db.selectFrom("driver_rows").selectAll().where("id", "=", ID).execute();
  return rows.map((row) => row.name);
};

async function transactions() {
  await both(async (one, two) => {
    await one.transaction().execute(async (tx) => {
      await tx.insertInto("driver_rows").values({ id: ID, name: "committed" }).execute();
      same(await names(two), []);
    });
    same(await names(two), ["committed"]);
    const lost = one.transaction().execute(async (tx) => {
      await tx.updateTable("driver_rows").set({ name: "lost" }).where("id", "=", ID).execute();
      same(await names(tx), ["lost"]);
      throw Object.assign(new Error("rolled back"), { code: "ours" });
    });
    await fails(lost, "ours");
    same(await names(two), ["committed"]);
    const wrong = one.transaction().execute(async (tx) => {
      await tx.deleteFrom("driver_rows").where("id", "=", ID).execute();
      await sql`SELECT 1 / 0`.execute(tx);
    });
    await fails(wrong, "22012");
    same(await names(one), ["committed"]);
    await two.deleteFrom("driver_rows").where("id", "=", ID).execute();
  });
}

async function errors() {
  await using(async (db) => {
    for (const [code, statement] of Object.entries(program.WRONG)) {
      await fails(sql.raw(statement).execute(db), code);
    }
    const again = db.insertInto("driver_cached").values({ id: 1, name: "again" });
    await fails(again.execute(), "23505");
    same((await sql`SELECT 1 AS one`.execute(db)).rows, [{ one: 1 }]);
  }, 1);
}

async function fifty() {
  const sleep = async (db) => (await sql.raw(program.SLEEP).execute(db)).rows[0].pid;
  await program.fifty(() => using(async (db) => [await sleep(db), await sleep(db)], 1));
}

async function cache() {
  await both(async (one, two) => {
    for (const db of [one, one, two]) {
      const rows = await db.selectFrom("driver_cached").selectAll().where("id", "=", 1).execute();
      same(rows, [{ id: 1, name: "one" }]);
    }
  });
}

const version = () => console.log(program.versionOf("kysely"));
await program.run({ version, connect, types, transactions, errors, fifty, cache });
