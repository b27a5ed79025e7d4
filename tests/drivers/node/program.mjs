// What the programs have in common: the values, the case on the command line, the exit code.

import { readFileSync } from "node:fs";

export { deepStrictEqual as same } from "node:assert/strict";
import assert from "node:assert/strict";

export const URL = process.env.DATABASE_URL;
export const ID = process.pid * 1000;

export const DOCUMENT = { key: [1, 2.5, null, true, "ä"], empty: {} };
// In the types that node-postgres and Postgres.js read: 64-bit and exact numbers are strings.
export const VALUES = {
  id: `${ID}`,
  small: -32768,
  medium: 2147483647,
  large: "-9223372036854775808",
  exact: "12345678901234567890.123456789",
  single: 1.5,
  double: 2.718281828459045,
  truth: true,
  words: "Grüße, \\ ' \" 猫 🐘\n",
  bytes: Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)),
  document: DOCUMENT,
  documents: DOCUMENT,
  numbers: [1, null, -3],
  labels: ["a", 'b "c", {d}', "ü", null],
  moment: new Date("2024-02-29T23:59:59.123Z"),
  nothing: null,
};
export const COLUMNS = Object.keys(VALUES).join(", ");

export const WRONG = {
  23505: "INSERT INTO driver_cached VALUES (1, 'again')",
  "42P01": "SELECT * FROM driver_absent",
  22012: "SELECT 1 / 0",
};

/** The error's SQLSTATE, wherever a library that wraps the driver's error keeps it. */
export const code = (error) => error.code ?? code(error.cause);

export async function fails(promise, expected) {
  await assert.rejects(promise, (error) => {
    assert.equal(code(error), expected);
    return true;
  });
}

export async function cancelledSoon(running, cancel) {
  const began = Date.now();
  const failed = fails(running, "57014");
  await new Promise((resolve) => setTimeout(resolve, 300));
  await cancel();
  await failed;
  assert.ok(Date.now() - began < 5000, "cancelled too late");
}

/** `twice` runs the query on a connection of its own and gives both process ids. */
export async function fifty(twice) {
  const pids = (await Promise.all(Array.from({ length: 50 }, twice))).flat();
  assert.equal(pids.length, 100);
  const different = new Set(pids).size;
  assert.ok(different <= 5, `${different} origin connections answered`);
}

export const SLEEP = "SELECT pg_backend_pid() AS pid, pg_sleep(0.05)::text AS slept";

export function versionOf(name) {
  return JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version;
}

export async function run(cases) {
  const name = process.argv.at(-1);
  if (!(name in cases)) process.exit(77);
  await cases[name]();
}
