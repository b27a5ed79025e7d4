// Prisma's client with its adapter for node-postgres.

import { PrismaPg } from "@prisma/adapter-pg";
import prisma from "./prisma_client/index.js";
import * as program from "./program.mjs";
import { ID, URL, VALUES, same } from "./program.mjs";

const { Prisma, PrismaClient } = prisma;

async function using(work, max = 5) {
  const client = new PrismaClient({ adapter: new PrismaPg({ connectionString: URL, max }) });
  return work(client).finally(() => client.$disconnect());
}

const both = (work) => using((one) => using((two) => work(one, two), 1), 1);

async function connect() {
  await using(async (db) => {
    const rows = await db.$queryRaw`SELECT * FROM pg_tables`;
    same(rows.some((row) => row.tablename === "driver_rows"), true);
  });
}

async function types() {
  const row = {
    ...VALUES,
    id: BigInt(ID),
    large: BigInt(VALUES.large),
    exact: new Prisma.Decimal(VALUES.exact),
    bytes: new Uint8Array(VALUES.bytes),
    // Its lists hold no NULL.
    numbers: [1, -3],
    labels: VALUES.labels.filter((label) => label !== null),
  };
  await using(async (db) => {
    const created = await db.driver_types.create({ data: row });
    const read = await db.driver_types.findUnique({ where: { id: row.id } });
    await db.driver_types.delete({ where: { id: row.id } });
    for (const found of [created, read]) {
      same(plain(found), plain(row));
    }
    const [echoed] = await db.$queryRaw`SELECT ${VALUES.words} AS words,
      ${row.moment}::timestamptz AS moment,
      ${row.bytes}::bytea AS bytes, ${null}::text AS nothing, ${true}::boolean AS truth`;
    const { words, moment, bytes, nothing, truth } = row;
    same(plain(echoed), plain({ words, moment, bytes, nothing, truth }));
  });
}

/** With numbers and bytes in a form that compares whatever class a library gives them. */
const plain = (row) => ({
  ...row,
  ...(row.exact && { exact: row.exact.toFixed() }),
  bytes: Buffer.from(row.bytes).toString("hex"),
});

const names = async (db) => {
  const rows = await db.driver_rows.findMany({ where: { id: ID } });
  return rows.map((row) => row.name);
};

async function transactions() {
  await both(async (one, two) => {
    await one.$transaction(async (tx) => {
      await tx.driver_rows.create({ data: { id: ID, name: "committed" } });
      same(await names(two), []);
    });
    same(await names(two), ["committed"]);
    const lost = one.$transaction(async (tx) => {
      await tx.driver_rows.update({ where: { id: ID }, data: { name: "lost" } });
      same(await names(tx), ["lost"]);
      throw Object.assign(new Error("rolled back"), { code: "ours" });
    });
    same(await codeOf(lost), "ours");
    same(await names(two), ["committed"]);
    const wrong = one.$transaction(async (tx) => {
      await tx.driver_rows.delete({ where: { id: ID } });
      await tx.$queryRaw`SELECT 1 / 0`;
    });
    same(await codeOf(wrong), "22012");
    same(await names(one), ["committed"]);
    await two.driver_rows.delete({ where: { id: ID } });
  });
}

/** The SQLSTATE; of an error of its models the adapter keeps it in the cause. */
async function codeOf(promise) {
  const error = await promise.then(() => null, (reason) => reason);
  const cause = error?.meta?.driverAdapterError?.cause;
  return cause?.originalCode ?? error?.meta?.code ?? error?.code;
}

async function errors() {
  await using(async (db) => {
    same(await codeOf(db.driver_cached.create({ data: { id: 1, name: "again" } })), "23505");
    for (const [code, statement] of Object.entries(program.WRONG)) {
      same(await codeOf(db.$queryRawUnsafe(statement)), code);
    }
    same(await db.$queryRaw`SELECT 1 AS one`, [{ one: 1 }]);
  }, 1);
}

async function fifty() {
  const sleep = async (db) => (await db.$queryRawUnsafe(program.SLEEP))[0].pid;
  await program.fifty(() => using(async (db) => [await sleep(db), await sleep(db)], 1));
}

async function cache() {
  await both(async (one, two) => {
    for (const db of [one, one, two]) {
      same(await db.driver_cached.findUnique({ where: { id: 1 } }), { id: 1, name: "one" });
    }
  });
}

const version = () => console.log(program.versionOf("@prisma/adapter-pg"));
await program.run({ version, connect, types, transactions, errors, fifty, cache });
