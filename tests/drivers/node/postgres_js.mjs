// Postgres.js with the page's options: max 5 and fetch_types false; prepare is true by default.

import { once } from "node:events";
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";
import postgres from "postgres";
import * as program from "./program.mjs";
import { ID, URL, VALUES, fails, same } from "./program.mjs";

const prepare = process.argv[2] === "prepare";

async function using(work, max = 5) {
  const sql = postgres(URL, { max, fetch_types: false, prepare });
  return work(sql).finally(() => sql.end());
}

// With one connection each, so that it is known which one answers.
const both = (work) => using((one) => using((two) => work(one, two), 1), 1);

async function connect() {
  await using(async (sql) => {
    const result = await sql`select * from pg_tables`;
    same(result.some((row) => row.tablename === "driver_rows"), true);
    const numbers = Array.from({ length: 20 }, (_, number) => number);
    const rows = await Promise.all(numbers.map((n) => sql`select ${n}::int as n`));
    same(rows.map(([row]) => row.n), numbers);
  });
}

async function types() {
  await using(async (sql) => {
    // Without fetch_types it does not know the types of arrays: they are given and read as text.
    const { numbers, labels, ...others } = VALUES;
    const given = { ...others, document: sql.json(VALUES.document), documents: sql.json(VALUES.documents) };
    await sql.begin(async (sql) => {
      await sql`insert into driver_types ${sql(given)}`;
      await sql`update driver_types set numbers = ${"{1,NULL,-3}"}::text::int[],
        labels = array['a', ${labels[1]}, 'ü', null] where id = ${ID}`;
      const [row] = await sql`select * from driver_types where id = ${ID}`;
      same({ ...row }, { ...VALUES, numbers: "{1,NULL,-3}", labels: '{a,"b \\"c\\", {d}",ü,NULL}' });
      await sql`delete from driver_types where id = ${ID}`;
    });
    const { large, bytes, moment, exact, nothing, truth, words } = VALUES;
    const [echoed] = await sql`select ${large}::bigint as large, ${bytes}::bytea as bytes,
      ${moment}::timestamptz as moment, ${exact}::numeric as exact, ${nothing}::text as nothing,
      ${truth}::boolean as truth, ${words}::text as words`;
    same({ ...echoed }, { large, bytes, moment, exact, nothing, truth, words });
  });
}

async function prepared() {
  await both(async (one, two) => {
    for (const number of [1, 2, 3]) {
      for (const sql of [one, two]) {
        const [row] = await sql`select ${number}::int + 1 as sum`;
        same({ ...row }, { sum: number + 1 });
      }
    }
  });
}

async function transactions() {
  await both(async (one, two) => {
    const names = async (sql) => {
      const rows = await sql`select name from driver_rows where id = ${ID}`;
      return rows.map((row) => row.name);
    };
    await one.begin(async (sql) => {
      await sql`insert into driver_rows values (${ID}, 'committed')`;
      same(await names(two), []);
    });
    same(await names(two), ["committed"]);
    const lost = one.begin(async (sql) => {
      await sql`update driver_rows set name = 'lost' where id = ${ID}`;
      same(await names(sql), ["lost"]);
      throw Object.assign(new Error("rolled back"), { code: "ours" });
    });
    await fails(lost, "ours");
    same(await names(two), ["committed"]);
    const wrong = one.begin(async (sql) => {
      await sql`delete from driver_rows where id = ${ID}`;
      await sql`select 1 / 0`;
    });
    await fails(wrong, "22012");
    same(await names(one), ["committed"]);
    await two`delete from driver_rows where id = ${ID}`;
  });
}

async function errors() {
  await using(async (sql) => {
    for (const [code, statement] of Object.entries(program.WRONG)) {
      await fails(sql.unsafe(statement), code);
      await fails(sql.unsafe(statement, [], { prepare }), code);
    }
    same((await sql`select 1 as one`)[0].one, 1);
  }, 1);
}

async function copy() {
  await using(async (sql) => {
    const lines = Array.from({ length: 500 }, (_, index) => `${ID + index}\trow ${index}\n`);
    await sql.begin(async (sql) => {
      const into = await sql`copy driver_rows from stdin`.writable();
      await pipeline(Readable.from(lines), into);
      const query = `select id, name from driver_rows where id >= ${ID} order by id`;
      const out = await sql.unsafe(`copy (${query}) to stdout`).readable();
      let text = "";
      out.on("data", (chunk) => (text += chunk));
      await once(out, "end");
      same(text, lines.join(""));
      await sql`delete from driver_rows where id >= ${ID} and id < ${ID + 500}`;
    });
  });
}

async function cancel() {
  await using(async (sql) => {
    const query = sql`select pg_sleep(30)`;
    await program.cancelledSoon(query, async () => query.cancel());
    same((await sql`select 1 as one`)[0].one, 1);
  }, 1);
}

async function fifty() {
  await program.fifty(() =>
    using(async (sql) => {
      const first = await sql.unsafe(program.SLEEP);
      const second = await sql.unsafe(program.SLEEP);
      return [first[0].pid, second[0].pid];
    }, 1),
  );
}

async function cache() {
  await both(async (one, two) => {
    for (const sql of [one, one, two]) {
      const [row] = await sql`select id, name from driver_cached where id = ${1}`;
      same({ ...row }, { id: 1, name: "one" });
    }
  });
}

const version = () => console.log(program.versionOf("postgres"));
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
