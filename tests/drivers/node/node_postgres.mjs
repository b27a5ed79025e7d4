// node-postgres: a Client for each request, or a Pool with at most 5.

import { once } from "node:events";
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";
import pg from "pg";
import { from, to } from "pg-copy-streams";
import * as program from "./program.mjs";
import { COLUMNS, ID, URL, VALUES, fails, same } from "./program.mjs";

const pooled = process.argv[2] === "pool";

/** Runs `work` with something to query; of a pool it has one client, so that there may be two. */
async function using(work) {
  if (!pooled) {
    const client = new pg.Client({ connectionString: URL });
    await client.connect();
    return work(client).finally(() => client.end());
  }
  const pool = new pg.Pool({ connectionString: URL, max: 5 });
  const client = await pool.connect();
  return work(client).finally(async () => {
    client.release();
    await pool.end();
  });
}

const both = (work) => using((one) => using((two) => work(one, two)));

async function connect() {
  await using(async (client) => {
    const result = await client.query("SELECT * FROM pg_tables");
    same(result.rows.some((row) => row.tablename === "driver_rows"), true);
  });
  if (pooled) await inParallel();
}

/** What the page has a pool for: queries at once, of which each takes any of its connections. */
async function inParallel() {
  const pool = new pg.Pool({ connectionString: URL, max: 5 });
  const numbers = Array.from({ length: 20 }, (_, number) => number);
  const results = await Promise.all(numbers.map((n) => pool.query("SELECT $1::int AS n", [n])));
  same(results.map((result) => result.rows[0].n), numbers);
  same(pool.totalCount <= 5, true);
  await pool.end();
}

async function types() {
  await using(async (client) => {
    const marks = Object.keys(VALUES).map((_, index) => `$${index + 1}`);
    await client.query("BEGIN");
    await client.query(
      `INSERT INTO driver_types (${COLUMNS}) VALUES (${marks})`,
      Object.values(VALUES),
    );
    const read = await client.query(`SELECT ${COLUMNS} FROM driver_types WHERE id = $1`, [ID]);
    same(read.rows, [VALUES]);
    await client.query("ROLLBACK");
    const { large, labels, bytes, moment, exact, nothing, document } = VALUES;
    const echoed = await client.query(
      `SELECT $1::bigint AS large, $2::text[] AS labels, $3::bytea AS bytes,
        $4::timestamptz AS moment, $5::numeric AS exact, $6::text AS nothing, $7::jsonb AS document`,
      [large, labels, bytes, moment, exact, nothing, document],
    );
    same(echoed.rows, [{ large, labels, bytes, moment, exact, nothing, document }]);
  });
}

async function prepared() {
  await both(async (one, two) => {
    for (const number of [1, 2, 3]) {
      for (const client of [one, two]) {
        const query = { name: "add", text: "SELECT $1::int + 1 AS sum", values: [number] };
        same((await client.query(query)).rows, [{ sum: number + 1 }]);
      }
    }
  });
}

async function transactions() {
  await both(async (one, two) => {
    const names = async (client) => {
      const result = await client.query("SELECT name FROM driver_rows WHERE id = $1", [ID]);
      return result.rows.map((row) => row.name);
    };
    await one.query("BEGIN");
    await one.query("INSERT INTO driver_rows VALUES ($1, 'committed')", [ID]);
    same(await names(two), []);
    await one.query("COMMIT");
    same(await names(two), ["committed"]);
    await one.query("BEGIN");
    await one.query("UPDATE driver_rows SET name = 'lost' WHERE id = $1", [ID]);
    same(await names(one), ["lost"]);
    await one.query("ROLLBACK");
    same(await names(two), ["committed"]);
    await one.query("BEGIN");
    await one.query("DELETE FROM driver_rows WHERE id = $1", [ID]);
    await fails(one.query("SELECT 1 / 0"), "22012");
    await fails(one.query("SELECT 1"), "25P02");
    await one.query("ROLLBACK");
    same(await names(one), ["committed"]);
    await two.query("DELETE FROM driver_rows WHERE id = $1", [ID]);
  });
}

async function errors() {
  await using(async (client) => {
    for (const [code, statement] of Object.entries(program.WRONG)) {
      await fails(client.query(statement), code);
      await fails(client.query({ text: statement, values: [], name: `wrong ${code}` }), code);
    }
    same((await client.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
  });
}

async function copy() {
  await using(async (client) => {
    const lines = Array.from({ length: 500 }, (_, index) => `${ID + index}\trow ${index}\n`);
    await client.query("BEGIN");
    await pipeline(Readable.from(lines), client.query(from("COPY driver_rows FROM STDIN")));
    const order = `SELECT id, name FROM driver_rows WHERE id >= ${ID} ORDER BY id`;
    const out = client.query(to(`COPY (${order}) TO STDOUT`));
    let text = "";
    out.on("data", (chunk) => (text += chunk));
    await once(out, "end");
    same(text, lines.join(""));
    await client.query("ROLLBACK");
  });
}

/** The driver has CancelRequest as a Client's method, with the other client as argument. */
async function cancel() {
  await using(async (client) => {
    const query = new pg.Query("SELECT pg_sleep(30)");
    const running = new Promise((resolve, reject) => {
      query.callback = (error) => (error ? reject(error) : resolve());
    });
    client.query(query);
    await program.cancelledSoon(running, async () => {
      new pg.Client({ connectionString: URL }).cancel(client, query);
    });
    same((await client.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
  });
}

async function fifty() {
  await program.fifty(() =>
    using(async (client) => {
      const first = await client.query(program.SLEEP);
      const second = await client.query(program.SLEEP);
      return [first.rows[0].pid, second.rows[0].pid];
    }),
  );
}

async function cache() {
  const query = "SELECT id, name FROM driver_cached WHERE id = $1";
  await both(async (one, two) => {
    for (const client of [one, one, two]) {
      same((await client.query(query, [1])).rows, [{ id: 1, name: "one" }]);
    }
  });
}

const version = () => console.log(program.versionOf("pg"));
await program.run({
  version,
  connect,
  types,
  prepared,
  transactions,
  errors,
  copy,
  cancel,
  fifty,
  cache,
});
