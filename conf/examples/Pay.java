// Calls Countersign from Java 8 or later, tells the three outcomes apart, and takes results.
//   java Pay.java query ORDERID      java Pay.java submit ORDERID CENTS      java Pay.java serve PORT

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.nio.file.StandardOpenOption;
import java.security.MessageDigest;
import java.util.concurrent.Executors;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class Pay {
    static final String COUNTERSIGN = setting("COUNTERSIGN", "http://127.0.0.1:8080");
    static final String TOKEN = setting("BACK_TOKEN", ""); // `back_token` of the merchants file
    static final String ORDERS = setting("ORDERS", System.getProperty("java.io.tmpdir"));

    /** The answer of Countersign: a verified answer of the platform, a page for the customer's browser, or a rejection. */
    static String call(String path, String json) throws IOException {
        // No proxy on the way to this machine, whatever the system's properties say.
        HttpURLConnection call = (HttpURLConnection) new URL(COUNTERSIGN + path).openConnection(Proxy.NO_PROXY);
        call.setConnectTimeout(3000);
        call.setReadTimeout(40000); // longer than platform.timeout, so that Countersign answers first
        call.setInstanceFollowRedirects(false); // a redirect is for the customer's browser
        call.setDoOutput(true);
        int status;
        String body;
        try {
            byte[] bytes = json.getBytes(StandardCharsets.UTF_8);
            // Without this HttpURLConnection repeats a POST when a connection breaks: a second submit.
            call.setFixedLengthStreamingMode(bytes.length);
            call.getOutputStream().write(bytes);
            status = call.getResponseCode();
            body = read(status < 400 ? call.getInputStream() : call.getErrorStream()); // rejections have a body, too
        } catch (IOException error) {
            // No answer: it may have been sent. After a submit, query before you try again.
            return "rejected: no-answer, sent unknown";
        }
        String type = String.valueOf(call.getContentType());
        if (type.startsWith("application/problem+json")) {
            // sent: "no" = nothing left this machine, try again; "yes" = the platform answered; "unknown" = query first.
            return "rejected: " + member(body, "code") + ", sent " + member(body, "sent");
        }
        if (status >= 400) {
            String sent = call.getHeaderField("countersign-sent");
            return "rejected: status-" + status + ", sent " + (sent == null ? "unknown" : sent);
        }
        if (!body.trim().startsWith("{")) {
            return "page for the customer";
        }
        if (!"00".equals(member(body, "respcode"))) {
            // The platform itself says no, 25 (no such order) for example: that is no payment, and no error of yours.
            return "platform: " + member(body, "respcode") + " " + member(body, "respmsg");
        }
        boolean paid = "0000".equals(member(body, "resultcode"));
        return (paid ? "paid: " : "not paid: ") + member(body, "orderid") + " " + member(body, paid ? "txnamt" : "resultcode");
    }

    /** The page that the merchant's `back` names. */
    static void back(HttpExchange exchange) throws IOException {
        String json = read(exchange.getRequestBody());
        String token = exchange.getRequestHeaders().getFirst("countersign-token");
        String event = String.valueOf(exchange.getRequestHeaders().getFirst("countersign-event"));
        // Anybody can post JSON to this page. Only Countersign knows the token; isEqual takes the same time for any other.
        if (TOKEN.isEmpty() || token == null || !MessageDigest.isEqual(bytes(token), bytes(TOKEN))) {
            reply(exchange, 403, "not Countersign");
            return;
        }
        if (!event.matches("[0-9a-f]+")) {
            reply(exchange, 400, "no event");
            return;
        }
        // A late 1001 after 0000 says so: it must not turn a paid order into an unpaid one.
        String late = exchange.getRequestHeaders().getFirst("countersign-superseded") == null ? "current" : "late";
        String line = member(json, "orderid") + " " + member(json, "txnamt") + " " + member(json, "resultcode") + " " + late + "\n";
        try {
            // The same result can come again, under the same id: book each id once. In a shop this is a table with a
            // unique key, filled in the same transaction as the order.
            Files.write(Paths.get(ORDERS, event), bytes(line), StandardOpenOption.CREATE_NEW);
        } catch (FileAlreadyExistsException again) {
            // Booked before.
        }
        reply(exchange, 200, "0000"); // only now: the result is booked
    }

    static void reply(HttpExchange exchange, int status, String words) throws IOException {
        exchange.sendResponseHeaders(status, words.length());
        exchange.getResponseBody().write(bytes(words));
        exchange.close();
    }

    /** A member of a flat object. Use the JSON library that you have: Gson, Jackson, fastjson. */
    static String member(String json, String name) {
        Matcher found = Pattern.compile("\"" + name + "\"\\s*:\\s*(?:\"([^\"]*)\"|([^,}\\s]+))").matcher(json);
        return !found.find() ? "" : found.group(1) != null ? found.group(1) : found.group(2);
    }

    static String read(InputStream stream) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        byte[] buffer = new byte[8192];
        for (int read; (read = stream.read(buffer)) > 0; ) {
            bytes.write(buffer, 0, read);
        }
        return new String(bytes.toByteArray(), StandardCharsets.UTF_8);
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String setting(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null ? otherwise : value;
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments[0].equals("serve")) {
            System.setProperty("sun.net.httpserver.maxReqTime", "10"); // seconds
            HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[1])), 0);
            server.createContext("/", Pay::back);
            server.setExecutor(Executors.newFixedThreadPool(8));
            server.start();
        } else if (arguments[0].equals("submit")) {
            String fields = "\"action\":\"AliPay\",\"txnamt\":" + arguments[2] + ",\"orderid\":\"" + arguments[1] + "\"";
            System.out.println(call("/api/icashier", "{" + fields + "}"));
        } else {
            System.out.println(call("/api/query", "{\"orderid\":\"" + arguments[1] + "\"}"));
        }
    }
}
