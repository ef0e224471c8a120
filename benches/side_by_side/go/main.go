// The whole job on net/http, as one would write it in an afternoon: sign, ask, verify, plain JSON home.
package main

import (
	"bytes"
	"crypto/md5"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"
)

const maxBody = 64 << 10

func sign(text, key string) string {
	sum := md5.Sum([]byte(text + key))
	return hex.EncodeToString(sum[:])
}

func verified(form []byte, key string) ([]byte, bool) {
	values, err := url.ParseQuery(string(form))
	if err != nil {
		return nil, false
	}
	text := values.Get("resp")
	if subtle.ConstantTimeCompare([]byte(values.Get("sign")), []byte(sign(text, key))) != 1 {
		return nil, false
	}
	plain, err := base64.StdEncoding.DecodeString(text)
	return plain, err == nil
}

// Arguments: the address to listen on, the platform's URL, the file of keys.
func main() {
	file, err := os.ReadFile(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	keys := map[string]string{}
	if err := json.Unmarshal(file, &keys); err != nil {
		log.Fatal(err)
	}
	client := &http.Client{
		Timeout:   15 * time.Second,
		Transport: &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, DisableCompression: true},
	}
	call := func(w http.ResponseWriter, r *http.Request) {
		message, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, "body too large", http.StatusRequestEntityTooLarge)
			return
		}
		var order struct{ Merid string }
		if err := json.Unmarshal(message, &order); err != nil {
			http.Error(w, "not a JSON object", http.StatusBadRequest)
			return
		}
		key, known := keys[order.Merid]
		if !known {
			http.Error(w, "unknown merchant", http.StatusUnprocessableEntity)
			return
		}
		text := base64.StdEncoding.EncodeToString(message)
		form := url.Values{"req": {text}, "sign": {sign(text, key)}}.Encode()
		answer, err := client.Post(os.Args[2]+r.URL.Path, "application/x-www-form-urlencoded", bytes.NewReader([]byte(form)))
		if err != nil {
			http.Error(w, "no answer", http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
		if err != nil || answer.StatusCode != http.StatusOK {
			http.Error(w, "no answer", http.StatusBadGateway)
			return
		}
		plain, fits := verified(body, key)
		if !fits {
			http.Error(w, "the sign does not fit", http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(plain)))
		w.Write(plain)
	}
	http.HandleFunc("/api/", call)
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
