// Drizzle over Postgres.js, with the page's options but one connection each.

import { drizzle } from "drizzle-orm/postgres-js";
import postgres from "postgres";
import { cases, version } from "./drizzle.mjs";
import { URL, run } from "./program.mjs";

async function using(work) {
  const client = postgres(URL, { max: 1, fetch_types: false });
  return work(drizzle(client)).finally(() => client.end());
}

await run(cases({ version, using, rowsOf: (result) => result }));
