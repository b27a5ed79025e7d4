// Drizzle over node-postgres, a Client for each request.

import { drizzle } from "drizzle-orm/node-postgres";
import pg from "pg";
import { cases, version } from "./drizzle.mjs";
import { URL, run } from "./program.mjs";

async function using(work) {
  const client = new pg.Client({ connectionString: URL });
  await client.connect();
  return work(drizzle(client)).finally(() => client.end());
}

await run(cases({ version, using, rowsOf: (result) => result.rows }));
