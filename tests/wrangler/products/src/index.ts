// src/index.ts
import { Client } from "pg";

export default {
  async fetch(
    request: Request,
    env: Env,
    ctx: ExecutionContext,
  ): Promise<Response> {
    const client = new Client({
      connectionString: env.HYPERDRIVE.connectionString,
    });
    await client.connect();

    const id = new URL(request.url).pathname.slice(1);
    if (request.method === "PUT") {
      const name = await request.text();
      await client.query("UPDATE product SET name = $2 WHERE id = $1", [id, name]);
      return new Response(null, { status: 204 });
    }
    const result = await client.query(
      "SELECT id, name FROM product WHERE id = $1",
      [id],
    );
    return Response.json(result.rows);
  },
} satisfies ExportedHandler<Env>;
