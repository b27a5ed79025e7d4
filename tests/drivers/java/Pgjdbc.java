import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Types;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.util.PGobject;

/** pgjdbc: "java Pgjdbc [OPTION=VALUE …] CASE"; "version" prints the driver's. */
public final class Pgjdbc {
    private interface Case {
        void run() throws Exception;
    }

    private static final Map<String, Case> CASES =
            Map.ofEntries(
                    Map.entry("version", () -> System.out.println(org.postgresql.util.DriverInfo.DRIVER_VERSION)),
                    Map.entry("connect", Pgjdbc::connectCase),
                    Map.entry("types", Pgjdbc::typesCase),
                    Map.entry("prepared", Pgjdbc::preparedCase),
                    Map.entry("transactions", Pgjdbc::transactionsCase),
                    Map.entry("errors", Pgjdbc::errorsCase),
                    Map.entry("copy", Pgjdbc::copyCase),
                    Map.entry("cancel", Pgjdbc::cancelCase),
                    Map.entry("fifty", Pgjdbc::fiftyCase),
                    Map.entry("cache", Pgjdbc::cacheCase));
    private interface Statements {
        void run() throws SQLException;
    }

    private static final Properties OPTIONS = new Properties();

    /** The first of this process's own, as an integer. */
    private static final int ID = (int) (ProcessHandle.current().pid() % 2_000_000 * 1000);

    public static void main(String[] arguments) throws Exception {
        int last = arguments.length - 1;
        for (String option : Arrays.asList(arguments).subList(0, last)) {
            String[] pair = option.split("=", 2);
            OPTIONS.setProperty(pair[0], pair[1]);
        }
        Case chosen = CASES.get(arguments[last]);
        if (chosen == null) {
            System.exit(77);
        }
        chosen.run();
    }

    private static void connectCase() throws SQLException {
        try (var connection = connect();
                var rows = connection.createStatement().executeQuery("SELECT * FROM pg_tables")) {
            Set<String> names = new TreeSet<>();
            while (rows.next()) {
                names.add(rows.getString("tablename"));
            }
            expect("pg_class is listed", names.contains("pg_class"), true);
        }
    }

    private static void typesCase() throws SQLException {
        var exact = new BigDecimal("12345678901.234567");
        var words = "Grüße, 'quotes' \"and\" \\ 東京";
        byte[] bytes = {0, 1, 39, 92, -1};
        var document = "{\"n\": 1.5, \"name\": \"Ada\", \"tags\": [\"a\", null]}";
        Integer[] numbers = {1, -2, 3};
        String[] labels = {"a,b", "\"c\"", ""};
        var moment = OffsetDateTime.parse("2026-02-28T23:59:59.123456+05:30");
        try (var connection = connect()) {
            try (var insert = connection.prepareStatement(
                    "INSERT INTO driver_types (id, small, medium, large, exact, single, double, truth,"
                            + " words, bytes, document, documents, numbers, labels, moment, nothing)"
                            + " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")) {
                insert.setLong(1, ID);
                insert.setShort(2, (short) -7);
                insert.setInt(3, 2_000_000_000);
                insert.setLong(4, 9_000_000_000_000_000_000L);
                insert.setBigDecimal(5, exact);
                insert.setFloat(6, 0.1f);
                insert.setDouble(7, 0.1);
                insert.setBoolean(8, true);
                insert.setString(9, words);
                insert.setBytes(10, bytes);
                insert.setObject(11, typed("json", document));
                insert.setObject(12, typed("jsonb", document));
                insert.setArray(13, connection.createArrayOf("integer", numbers));
                insert.setArray(14, connection.createArrayOf("text", labels));
                insert.setObject(15, moment);
                insert.setNull(16, Types.VARCHAR);
                insert.executeUpdate();
            }
            // By default the fifth execution is that of a named statement, the next one's is binary.
            try (var select = connection.prepareStatement(
                    "SELECT small, medium, large, exact, single, double, truth, words, bytes, document,"
                            + " documents, numbers, labels, moment, nothing"
                            + " FROM driver_types WHERE id = ?")) {
                select.setLong(1, ID);
                for (int round = 0; round < 7; round++) {
                    var row = select.executeQuery();
                    expect("rows", row.next(), true);
                    expect("small", row.getShort(1), (short) -7);
                    expect("medium", row.getInt(2), 2_000_000_000);
                    expect("large", row.getLong(3), 9_000_000_000_000_000_000L);
                    expect("exact", row.getBigDecimal(4), exact);
                    expect("single", row.getFloat(5), 0.1f);
                    expect("double", row.getDouble(6), 0.1);
                    expect("truth", row.getBoolean(7), true);
                    expect("words", row.getString(8), words);
                    expect("bytes", Arrays.toString(row.getBytes(9)), Arrays.toString(bytes));
                    expect("document", row.getString(10), document);
                    expect("documents", row.getString(11), document);
                    expect("numbers", list(row.getArray(12)), List.of(numbers));
                    expect("labels", list(row.getArray(13)), List.of(labels));
                    var read = row.getObject(14, OffsetDateTime.class);
                    expect("moment", read.toInstant(), moment.toInstant());
                    expect("nothing", row.getString(15), null);
                }
            }
            remove(connection, "driver_types");
        }
    }

    private static PGobject typed(String type, String value) throws SQLException {
        var object = new PGobject();
        object.setType(type);
        object.setValue(value);
        return object;
    }

    private static List<Object> list(Array array) throws SQLException {
        return List.of((Object[]) array.getArray());
    }

    private static void preparedCase() throws SQLException {
        String doubled = "SELECT CAST(? AS integer) * 2";
        try (var first = connect(); var second = connect()) {
            // At least as many executions as make it a named statement by default.
            int rounds = 3 + Integer.parseInt(OPTIONS.getProperty("prepareThreshold", "5"));
            try (var one = first.prepareStatement(doubled); var other = second.prepareStatement(doubled)) {
                for (int number = 0; number < rounds; number++) {
                    expect("doubled", number(one, number), number * 2L);
                    expect("doubled", number(other, number + 10), (number + 10) * 2L);
                }
            }
            try (var again = second.prepareStatement(doubled)) {
                expect("the other's statement", number(again, 21), 42L);
            }
        }
    }

    private static void transactionsCase() throws SQLException {
        try (var writer = connect(); var reader = connect()) {
            writer.setAutoCommit(false);
            insert(writer, ID);
            expect("rows before the commit", count(reader), 0L);
            writer.commit();
            expect("rows after the commit", count(reader), 1L);
            insert(writer, ID + 1);
            writer.rollback();
            expect("rows after the rollback", count(reader), 1L);
            insert(writer, ID + 2);
            expect("its error", code(() -> number(writer, "SELECT 1 / 0")), "22012");
            expect("the next one's", code(() -> number(writer, "SELECT 1")), "25P02");
            writer.rollback();
            expect("rows after the error", count(reader), 1L);
            remove(writer, "driver_rows");
            writer.commit();
        }
    }

    private static void errorsCase() throws SQLException {
        try (var connection = connect()) {
            insert(connection, ID);
            expect("a second row", code(() -> insert(connection, ID)), "23505");
            expect("no such table", code(() -> number(connection, "SELECT * FROM driver_missing")), "42P01");
            try (var division = connection.prepareStatement("SELECT 1 / ?")) {
                expect("division by zero", code(() -> number(division, 0)), "22012");
            }
            remove(connection, "driver_rows");
        }
    }

    private static void copyCase() throws Exception {
        try (var connection = connect()) {
            var manager = connection.unwrap(PGConnection.class).getCopyAPI();
            var lines = new StringBuilder();
            for (int number = 0; number < 500; number++) {
                lines.append(ID + number).append("\trow\\t").append(number).append('\n');
            }
            var input = new StringReader(lines.toString());
            expect("rows in", manager.copyIn("COPY driver_rows FROM STDIN", input), 500L);
            var output = new StringWriter();
            manager.copyOut(
                    "COPY (SELECT name FROM driver_rows WHERE id BETWEEN %d AND %d ORDER BY id) TO STDOUT"
                            .formatted(ID, ID + 999),
                    output);
            String[] rows = output.toString().split("\n");
            expect("rows out", rows.length, 500);
            expect("the last row", rows[499], "row\\t499");
            remove(connection, "driver_rows");
        }
    }

    private static void cancelCase() throws Exception {
        var threads = Executors.newSingleThreadExecutor();
        try (var connection = connect();
                var observer = connect();
                var sleep = connection.createStatement();
                var running = observer.prepareStatement(
                        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'"
                                + " AND pid <> pg_backend_pid() AND query LIKE '%' || ? || '%'")) {
            String mark = "SELECT pg_sleep(30) /* pgjdbc " + ID + " */";
            Future<String> failure = threads.submit(() -> code(() -> sleep.executeQuery(mark)));
            running.setString(1, mark);
            while (number(running) == 0) {
                Thread.onSpinWait();
            }
            long asked = System.nanoTime();
            sleep.cancel();
            expect("its error", failure.get(), "57014");
            expect("within 5 s", System.nanoTime() - asked < 5_000_000_000L, true);
            expect("the connection afterwards", number(connection, "SELECT 1"), 1L);
        } finally {
            threads.shutdownNow();
        }
    }

    private static void fiftyCase() throws Exception {
        var threads = Executors.newFixedThreadPool(50);
        try {
            var connected = new CyclicBarrier(50);
            List<Future<Set<Integer>>> tasks = new ArrayList<>();
            for (int task = 0; task < 50; task++) {
                tasks.add(threads.submit(() -> pids(connected)));
            }
            Set<Integer> pids = new TreeSet<>();
            for (var task : tasks) {
                pids.addAll(task.get());
            }
            expect("at most 5 of " + pids, pids.size() <= 5, true);
        } finally {
            threads.shutdownNow();
        }
    }

    private static Set<Integer> pids(CyclicBarrier connected) throws Exception {
        Set<Integer> pids = new TreeSet<>();
        try (var connection = connect(); var statement = connection.createStatement()) {
            connected.await(30, TimeUnit.SECONDS);
            for (int round = 0; round < 2; round++) {
                var row = statement.executeQuery("SELECT pg_backend_pid(), pg_sleep(0.05)");
                expect("rows", row.next(), true);
                pids.add(row.getInt(1));
            }
        }
        return pids;
    }

    private static void cacheCase() throws SQLException {
        String select = "SELECT id, name FROM driver_cached WHERE id = ?";
        try (var connection = connect(); var other = connect()) {
            for (var reader : List.of(connection, connection, other)) {
                try (var statement = reader.prepareStatement(select)) {
                    expect("id", number(statement, 1), 1L);
                }
            }
        }
    }

    /** DATABASE_URL as JDBC wants it: the user and the password are not in the URL. */
    private static Connection connect() throws SQLException {
        var url = URI.create(System.getenv("DATABASE_URL"));
        String[] account = url.getRawUserInfo().split(":", 2);
        var properties = new Properties();
        properties.putAll(OPTIONS);
        properties.setProperty("user", decoded(account[0]));
        properties.setProperty("password", decoded(account[1]));
        String place = "//%s:%d%s?%s".formatted(url.getHost(), url.getPort(), url.getRawPath(), url.getQuery());
        return DriverManager.getConnection("jdbc:postgresql:" + place, properties);
    }

    private static String decoded(String text) {
        return java.net.URLDecoder.decode(text.replace("+", "%2B"), StandardCharsets.UTF_8);
    }

    private static void insert(Connection connection, int id) throws SQLException {
        try (var statement = connection.prepareStatement("INSERT INTO driver_rows VALUES (?, 'pgjdbc')")) {
            statement.setInt(1, id);
            statement.executeUpdate();
        }
    }

    private static long count(Connection connection) throws SQLException {
        return number(connection, "SELECT count(*) FROM driver_rows WHERE id BETWEEN %d AND %d".formatted(ID, ID + 999));
    }

    private static long number(Connection connection, String sql) throws SQLException {
        try (var statement = connection.prepareStatement(sql)) {
            return number(statement);
        }
    }

    private static long number(PreparedStatement statement, int parameter) throws SQLException {
        statement.setInt(1, parameter);
        return number(statement);
    }

    private static long number(PreparedStatement statement) throws SQLException {
        try (ResultSet row = statement.executeQuery()) {
            expect("rows", row.next(), true);
            return row.getLong(1);
        }
    }

    private static void remove(Connection connection, String table) throws SQLException {
        try (var statement = connection.createStatement()) {
            statement.executeUpdate("DELETE FROM %s WHERE id BETWEEN %d AND %d".formatted(table, ID, ID + 999));
        }
    }

    /** The error's SQLSTATE; what happened instead without one. */
    private static String code(Statements failing) throws SQLException {
        try {
            failing.run();
            return "no error";
        } catch (SQLException error) {
            return error.getSQLState();
        }
    }

    private static void expect(String what, Object found, Object wanted) {
        if (!Objects.equals(found, wanted)) {
            throw new AssertionError("%s: %s, not %s".formatted(what, found, wanted));
        }
    }
}
