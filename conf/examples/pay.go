// Calls Countersign from Go, tells the three outcomes apart, and takes results.
//
//	go run pay.go query ORDERID      go run pay.go submit ORDERID CENTS      go run pay.go serve PORT
package main

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	countersign = setting("COUNTERSIGN", "http://127.0.0.1:8080")
	token       = setting("BACK_TOKEN", "") // `back_token` of the merchants file
	orders      = setting("ORDERS", os.TempDir())
	eventID     = regexp.MustCompile(`^[0-9a-f]+$`)
	client      = http.Client{
		Timeout:   40 * time.Second, // longer than platform.timeout, so that Countersign answers first
		Transport: &http.Transport{}, // no proxy on the way to this machine
		// A redirect is for the customer's browser.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
)

// A verified answer of the platform, or a rejection by Countersign.
type answer struct {
	Respcode, Respmsg, Resultcode, Orderid string
	Txnamt                                 json.Number
	Code, Sent                             string
}

func call(path string, fields map[string]any) string {
	body, _ := json.Marshal(fields)
	request, err := http.NewRequest("POST", countersign+path, bytes.NewReader(body))
	if err != nil {
		return "rejected: bad-url, sent no"
	}
	request.GetBody = nil // never sent a second time
	response, err := client.Do(request)
	if err != nil {
		// No answer: it may have been sent. After a submit, query before you try again.
		return "rejected: no-answer, sent unknown"
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	var said answer
	noJSON := json.Unmarshal(text, &said)
	switch {
	case err != nil:
		return "rejected: no-answer, sent unknown"
	case strings.HasPrefix(response.Header.Get("Content-Type"), "application/problem+json"):
		// sent: "no" = nothing left this machine, try again; "yes" = the platform answered; "unknown" = query first.
		return fmt.Sprintf("rejected: %s, sent %s", said.Code, said.Sent)
	case response.StatusCode >= 400:
		sent := response.Header.Get("countersign-sent")
		if sent == "" {
			sent = "unknown"
		}
		return fmt.Sprintf("rejected: status-%d, sent %s", response.StatusCode, sent)
	case noJSON != nil:
		return "page for the customer"
	case said.Respcode != "00":
		// The platform itself says no, 25 (no such order) for example: that is no payment, and no error of yours.
		return fmt.Sprintf("platform: %s %s", said.Respcode, said.Respmsg)
	case said.Resultcode == "0000":
		return fmt.Sprintf("paid: %s %s", said.Orderid, said.Txnamt)
	default:
		return fmt.Sprintf("not paid: %s %s", said.Orderid, said.Resultcode)
	}
}

// back is the page that the merchant's `back` names.
func back(writer http.ResponseWriter, request *http.Request) {
	// Anybody can post JSON to this page. Only Countersign knows the token.
	given := request.Header.Get("countersign-token")
	if token == "" || subtle.ConstantTimeCompare([]byte(given), []byte(token)) != 1 {
		http.Error(writer, "not Countersign", http.StatusForbidden)
		return
	}
	event := request.Header.Get("countersign-event")
	var result answer
	if err := json.NewDecoder(request.Body).Decode(&result); err != nil || !eventID.MatchString(event) {
		http.Error(writer, "no result", http.StatusBadRequest)
		return
	}
	// A late 1001 after 0000 says so: it must not turn a paid order into an unpaid one.
	late := "current"
	if request.Header.Get("countersign-superseded") != "" {
		late = "late"
	}
	// The same result can come again, under the same id: book each id once. In a shop this is a table with a unique key,
	// filled in the same transaction as the order.
	once, err := os.OpenFile(filepath.Join(orders, event), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(once, result.Orderid, result.Txnamt, result.Resultcode, late)
		err = errors.Join(err, once.Close())
	} else if os.IsExist(err) {
		err = nil
	}
	if err != nil {
		http.Error(writer, "not booked", http.StatusInternalServerError)
		return
	}
	fmt.Fprint(writer, "0000") // only now: the result is booked
}

func setting(name, otherwise string) string {
	if value, found := os.LookupEnv(name); found {
		return value
	}
	return otherwise
}

func main() {
	switch os.Args[1] {
	case "serve":
		server := http.Server{Addr: "127.0.0.1:" + os.Args[2], Handler: http.HandlerFunc(back), ReadTimeout: 10 * time.Second}
		fmt.Fprintln(os.Stderr, server.ListenAndServe())
	case "submit":
		cents, _ := strconv.Atoi(os.Args[3])
		fmt.Println(call("/api/icashier", map[string]any{"action": "AliPay", "txnamt": cents, "orderid": os.Args[2]}))
	default:
		fmt.Println(call("/api/query", map[string]any{"orderid": os.Args[2]}))
	}
}
