// "pgx [default_query_exec_mode] CASE"; "version" prints the driver's.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

var (
	ctx     = context.Background()
	version string // set by the linker: what is built outside a module does not know it
	url     = os.Getenv("DATABASE_URL")
	id      = os.Getpid() % 2_000_000 * 1000 // the first of this process's own, as an integer
	cases   = map[string]func(){
		"version": func() { fmt.Println(version) },
		"connect": connectCase, "types": typesCase, "prepared": preparedCase,
		"transactions": transactionsCase, "errors": errorsCase, "copy": copyCase,
		"cancel": cancelCase, "fifty": fiftyCase, "cache": cacheCase,
	}
)

func main() {
	if len(os.Args) > 2 {
		url += "&default_query_exec_mode=" + os.Args[1]
	}
	run, known := cases[os.Args[len(os.Args)-1]]
	if !known {
		os.Exit(77)
	}
	defer func() {
		if reason := recover(); reason != nil {
			fmt.Fprintln(os.Stderr, reason)
			os.Exit(1)
		}
	}()
	run()
}

func connectCase() {
	connection := connect()
	defer connection.Close(ctx)
	rows := must(connection.Query(ctx, "SELECT * FROM pg_tables"))
	tables := must(pgx.CollectRows(rows, pgx.RowToMap))
	names := slices.Collect(func(yield func(any) bool) {
		for _, table := range tables {
			if !yield(table["tablename"]) {
				return
			}
		}
	})
	expect("pg_class is listed", slices.Contains(names, "pg_class"), true)
}

func typesCase() {
	type values struct {
		Small     int16
		Medium    int32
		Large     int64
		Exact     pgtype.Numeric
		Single    float32
		Double    float64
		Truth     bool
		Words     string
		Bytes     []byte
		Document  map[string]any
		Documents map[string]any
		Numbers   []int32
		Labels    []string
		Moment    time.Time
		Nothing   *string
	}
	document := map[string]any{"name": "Ada", "tags": []any{"a", nil}, "n": 1.5}
	written := values{
		-7, 2_000_000_000, 9_000_000_000_000_000_000,
		pgtype.Numeric{Int: big.NewInt(12345678901234567), Exp: -6, Valid: true},
		0.1, 0.1, true, `Grüße, 'quotes' "and" \ 東京`, []byte{0, 1, 39, 92, 255},
		document, document, []int32{1, -2, 3}, []string{"a,b", `"c"`, ""},
		time.Date(2026, 2, 28, 23, 59, 59, 123456000, time.FixedZone("", 5*3600+1800)), nil,
	}
	connection := connect()
	defer connection.Close(ctx)
	defer remove(connection, "driver_types")
	// The modes exec and simple_protocol ask the server for no types, so Go's must say theirs.
	connection.TypeMap().RegisterDefaultPgType(document, "json")
	must(connection.Exec(ctx, `INSERT INTO driver_types (id, small, medium, large, exact, single,
		double, truth, words, bytes, document, documents, numbers, labels, moment, nothing)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		id, written.Small, written.Medium, written.Large, written.Exact, written.Single,
		written.Double, written.Truth, written.Words, written.Bytes, written.Document,
		written.Documents, written.Numbers, written.Labels, written.Moment, written.Nothing))
	rows := must(connection.Query(ctx, `SELECT small, medium, large, exact, single, double, truth,
		words, bytes, document, documents, numbers, labels, moment, nothing
		FROM driver_types WHERE id = $1`, id))
	read := must(pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[values]))
	expect("moment", read.Moment.Equal(written.Moment), true)
	expect("exact", must(read.Exact.Value()), must(written.Exact.Value()))
	read.Moment, read.Exact = written.Moment, written.Exact
	expect("values", fmt.Sprintf("%#v", read), fmt.Sprintf("%#v", written))
}

func preparedCase() {
	first, second := connect(), connect()
	defer first.Close(ctx)
	defer second.Close(ctx)
	for _, connection := range []*pgx.Conn{first, second} {
		must(connection.Prepare(ctx, "doubled", "SELECT $1::integer * 2"))
	}
	for number := range 3 {
		expect("doubled", one[int](first, "doubled", number), number*2)
		expect("doubled", one[int](second, "doubled", number+10), (number+10)*2)
	}
	check(first.Deallocate(ctx, "doubled"))
	expect("the other's statement", one[int](second, "doubled", 21), 42)
}

func transactionsCase() {
	writer, reader := connect(), connect()
	defer writer.Close(ctx)
	defer reader.Close(ctx)
	defer remove(writer, "driver_rows")
	write := func(id int) pgx.Tx {
		transaction := must(writer.Begin(ctx))
		must(transaction.Exec(ctx, "INSERT INTO driver_rows VALUES ($1, 'pgx')", id))
		return transaction
	}
	count := func() int {
		return one[int](reader, "SELECT count(*) FROM driver_rows WHERE id BETWEEN $1 AND $1 + 999", id)
	}
	transaction := write(id)
	expect("rows before the commit", count(), 0)
	check(transaction.Commit(ctx))
	expect("rows after the commit", count(), 1)
	check(write(id + 1).Rollback(ctx))
	expect("rows after the rollback", count(), 1)
	transaction = write(id + 2)
	expect("its error", code(transaction, "SELECT 1 / 0"), "22012")
	expect("the next one's", code(transaction, "SELECT 1"), "25P02")
	check(transaction.Rollback(ctx))
	expect("rows after the error", count(), 1)
	expect("the connection afterwards", one[int](writer, "SELECT 1"), 1)
}

func errorsCase() {
	connection := connect()
	defer connection.Close(ctx)
	defer remove(connection, "driver_rows")
	const insert = "INSERT INTO driver_rows VALUES ($1, 'pgx')"
	expect("a first row", code(connection, insert, id), "")
	expect("a second one", code(connection, insert, id), "23505")
	expect("no such table", code(connection, "SELECT * FROM driver_missing"), "42P01")
	expect("division by zero", code(connection, "SELECT 1 / $1::integer", 0), "22012")
	expect("the connection afterwards", one[int](connection, "SELECT 1"), 1)
}

func copyCase() {
	connection := connect()
	defer connection.Close(ctx)
	defer remove(connection, "driver_rows")
	rows := pgx.CopyFromSlice(500, func(n int) ([]any, error) {
		return []any{id + n, fmt.Sprintf("row\t%d", n)}, nil
	})
	copied := must(connection.CopyFrom(ctx, pgx.Identifier{"driver_rows"}, []string{"id", "name"}, rows))
	expect("rows in", copied, int64(500))
	var out bytes.Buffer
	must(connection.PgConn().CopyTo(ctx, &out, fmt.Sprintf(
		"COPY (SELECT name FROM driver_rows WHERE id BETWEEN %d AND %d ORDER BY id) TO STDOUT", id, id+999)))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	expect("rows out", len(lines), 500)
	expect("the last row", lines[499], `row\t499`)
}

func cancelCase() {
	connection, observer := connect(), connect()
	defer connection.Close(ctx)
	defer observer.Close(ctx)
	mark := fmt.Sprintf("SELECT pg_sleep(30) /* pgx %d */", id)
	failure := make(chan string)
	go func() { failure <- code(connection, mark) }()
	const running = `SELECT count(*) FROM pg_stat_activity
		WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%' || $1 || '%'`
	for one[int](observer, running, mark) == 0 {
	}
	asked := time.Now()
	check(connection.PgConn().CancelRequest(ctx))
	expect("its error", <-failure, "57014")
	expect("within 5 s", time.Since(asked) < 5*time.Second, true)
	expect("the connection afterwards", one[int](connection, "SELECT 1"), 1)
}

func fiftyCase() {
	var (
		lock  sync.Mutex
		pids  = map[int]bool{}
		tasks sync.WaitGroup
		first any
	)
	for range 50 {
		tasks.Go(func() {
			defer func() {
				if reason := recover(); reason != nil {
					lock.Lock()
					defer lock.Unlock()
					first = reason
				}
			}()
			connection := connect()
			defer connection.Close(ctx)
			for range 2 {
				var pid int
				var slept any
				row := connection.QueryRow(ctx, "SELECT pg_backend_pid(), pg_sleep(0.05)")
				check(row.Scan(&pid, &slept))
				lock.Lock()
				pids[pid] = true
				lock.Unlock()
			}
		})
	}
	tasks.Wait()
	if first != nil {
		panic(first)
	}
	seen := slices.Collect(maps.Keys(pids))
	expect(fmt.Sprint("at most 5 of ", seen), len(seen) <= 5, true)
}

func cacheCase() {
	connection := connect()
	defer connection.Close(ctx)
	other := connect()
	defer other.Close(ctx)
	for _, reader := range []*pgx.Conn{connection, connection, other} {
		var found int
		var name string
		row := reader.QueryRow(ctx, "SELECT id, name FROM driver_cached WHERE id = $1", 1)
		check(row.Scan(&found, &name))
		expect("id", found, 1)
	}
}

type executor interface {
	Exec(ctx context.Context, sql string, arguments ...any) (pgconn.CommandTag, error)
}

func connect() *pgx.Conn {
	return must(pgx.Connect(ctx, url))
}

func one[T any](connection *pgx.Conn, sql string, arguments ...any) (value T) {
	check(connection.QueryRow(ctx, sql, arguments...).Scan(&value))
	return value
}

// code is the error's SQLSTATE; empty without an error.
func code(on executor, sql string, arguments ...any) string {
	_, err := on.Exec(ctx, sql, arguments...)
	var failure *pgconn.PgError
	if errors.As(err, &failure) {
		return failure.Code
	}
	check(err)
	return ""
}

func remove(connection *pgx.Conn, table string) {
	must(connection.Exec(ctx, "DELETE FROM "+table+" WHERE id BETWEEN $1 AND $1 + 999", id))
}

func expect[T comparable](what string, found, wanted T) {
	if found != wanted {
		panic(fmt.Sprintf("%s: %v, not %v", what, found, wanted))
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
