"""Calls Countersign from Python 3, tells the three outcomes apart, and takes results.

    python3 pay.py query ORDERID          python3 pay.py submit ORDERID CENTS          python3 pay.py serve PORT
"""

import hmac
import json
import os
import sys
import tempfile
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COUNTERSIGN = os.environ.get("COUNTERSIGN", "http://127.0.0.1:8080")
TOKEN = os.environ.get("BACK_TOKEN", "")  # `back_token` of the merchants file
ORDERS = os.environ.get("ORDERS", tempfile.gettempdir())


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is for the customer's browser."""

    def redirect_request(self, *_):
        return None


# No proxy on the way to this machine, whatever the environment says.
OPENER = urllib.request.build_opener(NoRedirect, urllib.request.ProxyHandler({}))


def call(path, fields):
    """Returns (kind, data): 'answer' (verified JSON of the platform), 'page' (for the customer's browser) or 'rejected'
    (no result: data tells why, and whether anything was sent)."""
    request = urllib.request.Request(COUNTERSIGN + path, json.dumps(fields).encode())
    try:
        # Longer than platform.timeout, so that Countersign answers first.
        with OPENER.open(request, timeout=40) as response:
            status, headers, body = response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:  # rejections have a body, too
        status, headers, body = error.code, error.headers, error.read()
    except OSError as error:
        # No answer: it may have been sent. After a submit, query before you try again.
        return "rejected", {"code": "no-answer", "sent": "unknown", "detail": str(error)}
    if headers.get_content_type() == "application/problem+json":
        return "rejected", json.loads(body)
    if status >= 400:
        return "rejected", {"code": f"status-{status}", "sent": headers.get("countersign-sent", "unknown")}
    try:
        return "answer", json.loads(body)
    except ValueError:
        return "page", body


def tell(kind, data):
    if kind == "rejected":
        # sent: "no" = nothing left this machine, try again; "yes" = the platform answered; "unknown" = query first.
        return f"rejected: {data['code']}, sent {data['sent']}"
    if kind == "page":
        return "page for the customer"
    if data["respcode"] != "00":
        # The platform itself says no, 25 (no such order) for example: that is no payment, and no error of yours.
        return f"platform: {data['respcode']} {data['respmsg']}"
    if data["resultcode"] == "0000":
        return f"paid: {data['orderid']} {data['txnamt']}"
    return f"not paid: {data['orderid']} {data['resultcode']}"


class Back(BaseHTTPRequestHandler):
    """The page that the merchant's `back` names."""

    timeout = 10

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        # Anybody can post JSON to this page. Only Countersign knows the token.
        if not TOKEN or not hmac.compare_digest(self.headers.get("countersign-token", ""), TOKEN):
            return self.reply(403, b"not Countersign")
        result = json.loads(body)
        # The same result can come again, under the same id: book each id once. In a shop this is a table with a unique
        # key, filled in the same transaction as the order.
        event = self.headers["countersign-event"]
        if not event.isalnum():
            return self.reply(400, b"no event")
        try:
            with open(os.path.join(ORDERS, event), "x") as once:
                # A late 1001 after 0000 says so: it must not turn a paid order into an unpaid one.
                late = "late" if "countersign-superseded" in self.headers else "current"
                once.write(f"{result['orderid']} {result['txnamt']} {result['resultcode']} {late}\n")
        except FileExistsError:
            pass
        return self.reply(200, b"0000")  # only now: the result is booked

    def reply(self, status, words):
        self.send_response(status)
        self.send_header("content-length", str(len(words)))
        self.end_headers()
        self.wfile.write(words)


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "serve":
        ThreadingHTTPServer(("127.0.0.1", int(arguments[0])), Back).serve_forever()
    elif verb == "submit":
        orderid, cents = arguments
        print(tell(*call("/api/icashier", {"action": "AliPay", "txnamt": int(cents), "orderid": orderid})))
    else:
        print(tell(*call("/api/query", {"orderid": arguments[0]})))
