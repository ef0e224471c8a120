// Calls Countersign from .NET 6 or later, tells the three outcomes apart, and takes results (as Program.cs of a console app).
//   dotnet run query ORDERID      dotnet run submit ORDERID CENTS      dotnet run serve PORT

using System;
using System.IO;
using System.Net;
using System.Net.Http;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using System.Threading.Tasks;

static class Pay
{
    static readonly string Countersign = Setting("COUNTERSIGN", "http://127.0.0.1:8080");
    static readonly string Token = Setting("BACK_TOKEN", ""); // `back_token` of the merchants file
    static readonly string Orders = Setting("ORDERS", Path.GetTempPath());

    // A redirect is for the customer's browser, and no proxy is on the way to this machine.
    static readonly HttpClient Client = new HttpClient(new HttpClientHandler { AllowAutoRedirect = false, UseProxy = false })
    {
        Timeout = TimeSpan.FromSeconds(40) // longer than platform.timeout, so that Countersign answers first
    };

    static async Task<string> Call(string path, string json)
    {
        string body;
        HttpResponseMessage response;
        try
        {
            response = await Client.PostAsync(Countersign + path, new StringContent(json, Encoding.UTF8, "application/json"));
            body = await response.Content.ReadAsStringAsync();
        }
        catch (Exception error) when (error is HttpRequestException || error is TaskCanceledException)
        {
            // No answer: it may have been sent. After a submit, query before you try again.
            return "rejected: no-answer, sent unknown";
        }
        var type = response.Content.Headers.ContentType?.MediaType;
        if (type == "application/problem+json")
        {
            // sent: "no" = nothing left this machine, try again; "yes" = the platform answered; "unknown" = query first.
            return $"rejected: {Member(body, "code")}, sent {Member(body, "sent")}";
        }
        if ((int)response.StatusCode >= 400)
        {
            var sent = response.Headers.TryGetValues("countersign-sent", out var values) ? string.Join("", values) : "unknown";
            return $"rejected: status-{(int)response.StatusCode}, sent {sent}";
        }
        if (!body.TrimStart().StartsWith("{"))
        {
            return "page for the customer";
        }
        if (Member(body, "respcode") != "00")
        {
            // The platform itself says no, 25 (no such order) for example: that is no payment, and no error of yours.
            return $"platform: {Member(body, "respcode")} {Member(body, "respmsg")}";
        }
        return Member(body, "resultcode") == "0000"
            ? $"paid: {Member(body, "orderid")} {Member(body, "txnamt")}"
            : $"not paid: {Member(body, "orderid")} {Member(body, "resultcode")}";
    }

    // The page that the merchant's `back` names.
    static (int Status, string Words) Back(HttpListenerRequest request)
    {
        // Anybody can post JSON to this page. Only Countersign knows the token.
        var given = Encoding.UTF8.GetBytes(request.Headers["countersign-token"] ?? "");
        if (Token == "" || !CryptographicOperations.FixedTimeEquals(given, Encoding.UTF8.GetBytes(Token)))
        {
            return (403, "not Countersign");
        }
        var id = request.Headers["countersign-event"] ?? "";
        if (!Regex.IsMatch(id, "^[0-9a-f]+$"))
        {
            return (400, "no event");
        }
        var json = new StreamReader(request.InputStream, Encoding.UTF8).ReadToEnd();
        // A late 1001 after 0000 says so: it must not turn a paid order into an unpaid one.
        var late = request.Headers["countersign-superseded"] == null ? "current" : "late";
        var path = Path.Combine(Orders, id);
        try
        {
            // The same result can come again, under the same id: book each id once. In a shop this is a table with a
            // unique key, filled in the same transaction as the order.
            using (var once = new StreamWriter(new FileStream(path, FileMode.CreateNew)))
            {
                once.WriteLine($"{Member(json, "orderid")} {Member(json, "txnamt")} {Member(json, "resultcode")} {late}");
            }
        }
        catch (IOException) when (File.Exists(path))
        {
            // Booked before.
        }
        return (200, "0000"); // only now: the result is booked
    }

    static string Member(string json, string name)
    {
        using (var document = JsonDocument.Parse(json))
        {
            return document.RootElement.TryGetProperty(name, out var value) ? value.ToString() : "";
        }
    }

    static string Setting(string name, string otherwise) => Environment.GetEnvironmentVariable(name) ?? otherwise;

    static async Task Main(string[] arguments)
    {
        if (arguments[0] == "serve")
        {
            var listener = new HttpListener();
            listener.Prefixes.Add($"http://127.0.0.1:{arguments[1]}/");
            listener.TimeoutManager.EntityBody = TimeSpan.FromSeconds(10);
            listener.Start();
            while (true)
            {
                var context = await listener.GetContextAsync();
                _ = Task.Run(() =>
                {
                    var (status, words) = Back(context.Request);
                    context.Response.StatusCode = status;
                    context.Response.Close(Encoding.ASCII.GetBytes(words), false);
                });
            }
        }
        var fields = arguments[0] == "submit"
            ? new { action = (string?)"AliPay", txnamt = (int?)int.Parse(arguments[2]), orderid = arguments[1] }
            : new { action = (string?)null, txnamt = (int?)null, orderid = arguments[1] };
        var options = new JsonSerializerOptions { DefaultIgnoreCondition = System.Text.Json.Serialization.JsonIgnoreCondition.WhenWritingNull };
        var endpoint = arguments[0] == "submit" ? "/api/icashier" : "/api/query";
        Console.WriteLine(await Call(endpoint, JsonSerializer.Serialize(fields, options)));
    }
}
