//! rust-postgres: "driver query|query_typed CASE"; "version" prints the driver's.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, process};

use chrono::{DateTime, FixedOffset, Utc};
use postgres::types::{ToSql, Type};
use postgres::{Client, GenericClient, NoTls, Row};
use serde_json::json;

type Checked<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;
/// The parameters, each with the type that `query_typed` names and `query` asks the server for.
type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

#[derive(Clone, Copy)]
enum Method {
    Query,
    QueryTyped,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let method = match arguments.get(1).map(String::as_str) {
        Some("query") => Method::Query,
        Some("query_typed") => Method::QueryTyped,
        _ => return ExitCode::from(2),
    };
    let outcome = match arguments.get(2).map(String::as_str) {
        Some("version") => Ok(println!("{}", env!("DRIVER_VERSION"))),
        Some("connect") => connect_case(method),
        Some("types") => types_case(method),
        Some("prepared") => prepared_case(),
        Some("transactions") => transactions_case(method),
        Some("errors") => errors_case(method),
        Some("copy") => copy_case(),
        Some("cancel") => cancel_case(method),
        Some("fifty") => fifty_case(method),
        Some("cache") => cache_case(method),
        _ => return ExitCode::from(77),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason:?}");
            ExitCode::FAILURE
        }
    }
}

fn connect_case(method: Method) -> Checked {
    let rows = query(&mut connect()?, method, "SELECT * FROM pg_tables", &[])?;
    let listed = rows
        .iter()
        .any(|row| row.get::<_, &str>("tablename") == "pg_class");
    expect("pg_class is listed", listed, true)
}

fn types_case(method: Method) -> Checked {
    let mut client = connect()?;
    let (small, medium, large) = (-7i16, 2_000_000_000i32, 9_000_000_000_000_000_000i64);
    let (exact, single, double) = ("12345678901.234567", 0.1f32, 0.1f64);
    let words = "Grüße, 'quotes' \"and\" \\ 東京";
    let bytes = vec![0u8, 1, 39, 92, 255];
    let document = json!({"name": "Ada", "tags": ["a", null], "n": 1.5});
    let (numbers, labels) = (vec![1, -2, 3], vec!["a,b", "\"c\"", ""]);
    let moment = DateTime::<FixedOffset>::parse_from_rfc3339("2026-02-28T23:59:59.123456+05:30")?;
    let nothing = None::<&str>;
    // The driver has no type of its own for numeric, which goes as text.
    let insert = "INSERT INTO driver_types (id, small, medium, large, exact, single, double, truth,
        words, bytes, document, documents, numbers, labels, moment, nothing)
        VALUES ($1, $2, $3, $4, $5::text::numeric, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";
    let values: Parameters = &[
        (&i64::from(id()), Type::INT8),
        (&small, Type::INT2),
        (&medium, Type::INT4),
        (&large, Type::INT8),
        (&exact, Type::TEXT),
        (&single, Type::FLOAT4),
        (&double, Type::FLOAT8),
        (&true, Type::BOOL),
        (&words, Type::TEXT),
        (&bytes, Type::BYTEA),
        (&document, Type::JSON),
        (&document, Type::JSONB),
        (&numbers, Type::INT4_ARRAY),
        (&labels, Type::TEXT_ARRAY),
        (&moment, Type::TIMESTAMPTZ),
        (&nothing, Type::TEXT),
    ];
    query(&mut client, method, insert, values)?;
    let select = "SELECT small, medium, large, exact::text, single, double, truth, words, bytes,
        document, documents, numbers, labels, moment, nothing FROM driver_types WHERE id = $1";
    let row = query(&mut client, method, select, &values[..1])?.remove(0);
    remove(&mut client, "driver_types")?;
    expect("small", row.get(0), small)?;
    expect("medium", row.get(1), medium)?;
    expect("large", row.get(2), large)?;
    expect("exact", row.get(3), exact)?;
    expect("single", row.get(4), single)?;
    expect("double", row.get(5), double)?;
    expect("truth", row.get(6), true)?;
    expect("words", row.get(7), words)?;
    expect("bytes", row.get(8), bytes)?;
    expect("document", row.get(9), document.clone())?;
    expect("documents", row.get(10), document)?;
    expect("numbers", row.get(11), numbers)?;
    expect("labels", row.get(12), labels)?;
    expect("moment", row.get(13), moment.with_timezone(&Utc))?;
    expect("nothing", row.get(14), nothing)
}

fn prepared_case() -> Checked {
    let (mut first, mut second) = (connect()?, connect()?);
    let one = first.prepare("SELECT $1::integer * 2")?;
    let other = second.prepare("SELECT $1::integer * 2")?;
    for number in 0..3 {
        expect(
            "doubled",
            first.query_one(&one, &[&number])?.get(0),
            number * 2,
        )?;
        let tens = number + 10;
        expect(
            "doubled",
            second.query_one(&other, &[&tens])?.get(0),
            tens * 2,
        )?;
    }
    drop(one);
    expect(
        "the connection without it",
        first.query_one("SELECT 1", &[])?.get(0),
        1,
    )?;
    expect(
        "the other's statement",
        second.query_one(&other, &[&21])?.get(0),
        42,
    )
}

fn transactions_case(method: Method) -> Checked {
    let (mut writer, mut reader) = (connect()?, connect()?);
    let mut transaction = writer.transaction()?;
    insert(&mut transaction, method, id())?;
    expect("rows before the commit", count(&mut reader, method)?, 0)?;
    transaction.commit()?;
    expect("rows after the commit", count(&mut reader, method)?, 1)?;
    let mut transaction = writer.transaction()?;
    insert(&mut transaction, method, id() + 1)?;
    transaction.rollback()?;
    expect("rows after the rollback", count(&mut reader, method)?, 1)?;
    let mut transaction = writer.transaction()?;
    insert(&mut transaction, method, id() + 2)?;
    expect(
        "its error",
        code(query(&mut transaction, method, "SELECT 1 / 0", &[])),
        "22012".into(),
    )?;
    expect(
        "the next one's",
        code(query(&mut transaction, method, "SELECT 1", &[])),
        "25P02".into(),
    )?;
    transaction.rollback()?;
    expect("rows after the error", count(&mut reader, method)?, 1)?;
    remove(&mut writer, "driver_rows")
}

fn errors_case(method: Method) -> Checked {
    let mut client = connect()?;
    insert(&mut client, method, id())?;
    expect(
        "a second row",
        code(insert(&mut client, method, id())),
        "23505".into(),
    )?;
    let missing = query(&mut client, method, "SELECT * FROM driver_missing", &[]);
    expect("no such table", code(missing), "42P01".into())?;
    let division = query(
        &mut client,
        method,
        "SELECT 1 / $1::integer",
        &[(&0, Type::INT4)],
    );
    expect("division by zero", code(division), "22012".into())?;
    remove(&mut client, "driver_rows")
}

fn copy_case() -> Checked {
    let mut client = connect()?;
    let mut writer = client.copy_in("COPY driver_rows FROM STDIN")?;
    for number in 0..500 {
        writeln!(writer, "{}\trow\\t{number}", id() + number)?;
    }
    expect("rows in", writer.finish()?, 500)?;
    let (from, to) = (id(), id() + 999);
    let select =
        format!("SELECT name FROM driver_rows WHERE id BETWEEN {from} AND {to} ORDER BY id");
    let mut text = String::new();
    client
        .copy_out(&format!("COPY ({select}) TO STDOUT"))?
        .read_to_string(&mut text)?;
    remove(&mut client, "driver_rows")?;
    expect("rows out", text.lines().count(), 500)?;
    expect("the last row", text.lines().last(), Some("row\\t499"))
}

fn cancel_case(method: Method) -> Checked {
    let (mut client, mut observer) = (connect()?, connect()?);
    let token = client.cancel_token();
    let mark = format!("SELECT pg_sleep(30) /* rust-postgres {} */", id());
    let running = "SELECT count(*) FROM pg_stat_activity
        WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%' || $1 || '%'";
    let asleep = mark.clone();
    let sleeper = thread::spawn(move || {
        let failure = code(query(&mut client, method, &asleep, &[]));
        query(&mut client, method, "SELECT 1", &[]).map(|_| failure)
    });
    while query(&mut observer, method, running, &[(&mark, Type::TEXT)])?[0].get::<_, i64>(0) == 0 {}
    let asked = Instant::now();
    token.cancel_query(NoTls)?;
    let failure = sleeper.join().map_err(|_| "the sleeping thread")??;
    expect("its error", failure, "57014".into())?;
    expect("within 5 s", asked.elapsed() < Duration::from_secs(5), true)
}

fn fifty_case(method: Method) -> Checked {
    let ask = move || -> Checked<Vec<i32>> {
        let mut client = connect()?;
        let sql = "SELECT pg_backend_pid(), pg_sleep(0.05)";
        (0..2)
            .map(|_| Ok(query(&mut client, method, sql, &[])?[0].get(0)))
            .collect()
    };
    let threads: Vec<_> = (0..50).map(|_| thread::spawn(ask)).collect();
    let mut pids = BTreeSet::new();
    for thread in threads {
        pids.extend(thread.join().map_err(|_| "a connection's thread")??);
    }
    expect(&format!("at most 5 of {pids:?}"), pids.len() <= 5, true)
}

fn cache_case(method: Method) -> Checked {
    let mut client = connect()?;
    let select = "SELECT id, name FROM driver_cached WHERE id = $1";
    for _ in 0..2 {
        let rows = query(&mut client, method, select, &[(&1, Type::INT4)])?;
        expect("id", rows[0].get(0), 1)?;
    }
    expect(
        "id",
        query(&mut connect()?, method, select, &[(&1, Type::INT4)])?[0].get(0),
        1,
    )
}

fn connect() -> Checked<Client> {
    Ok(Client::connect(&env::var("DATABASE_URL")?, NoTls)?)
}

fn query(
    client: &mut impl GenericClient,
    method: Method,
    sql: &str,
    parameters: Parameters,
) -> Result<Vec<Row>, postgres::Error> {
    match method {
        Method::QueryTyped => client.query_typed(sql, parameters),
        Method::Query => {
            let values: Vec<_> = parameters.iter().map(|(value, _)| *value).collect();
            client.query(sql, &values)
        }
    }
}

fn insert(
    client: &mut impl GenericClient,
    method: Method,
    id: i32,
) -> Result<Vec<Row>, postgres::Error> {
    let sql = "INSERT INTO driver_rows VALUES ($1, 'rust-postgres')";
    query(client, method, sql, &[(&id, Type::INT4)])
}

fn count(client: &mut Client, method: Method) -> Checked<i64> {
    let sql = "SELECT count(*) FROM driver_rows WHERE id BETWEEN $1 AND $1 + 999";
    Ok(query(client, method, sql, &[(&id(), Type::INT4)])?[0].get(0))
}

fn remove(client: &mut Client, table: &str) -> Checked {
    let (from, to) = (id(), id() + 999);
    Ok(client.batch_execute(&format!(
        "DELETE FROM {table} WHERE id BETWEEN {from} AND {to}"
    ))?)
}

/// The error's SQLSTATE; what happened instead without one.
fn code<T>(outcome: Result<T, postgres::Error>) -> String {
    match outcome {
        Ok(_) => "no error".into(),
        Err(error) => error
            .code()
            .map_or_else(|| error.to_string(), |state| state.code().into()),
    }
}

/// The first of this process's own, as an integer.
fn id() -> i32 {
    (process::id() % 2_000_000 * 1000) as i32
}

fn expect<T: PartialEq + Debug>(what: &str, found: T, wanted: T) -> Checked {
    if found == wanted {
        Ok(())
    } else {
        Err(format!("{what}: {found:?}, not {wanted:?}").into())
    }
}
