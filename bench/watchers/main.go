// watchers opens watches as so many agents would, reads what comes and throws it away.
//
//	watchers -server URL -token T -agents 1000 -http1 PATH...
//
// Every agent has a client of its own: with -http1 a connection for each watch, as aiohttp has; without, one HTTP/2
// connection for all of them, as client-go has. Prints "ready" when every watch has been answered, then the number of
// bytes read so far, once a second, until it is ended. Only the standard library.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	server := flag.String("server", "", "URL of the API server")
	token := flag.String("token", "", "bearer token")
	agents := flag.Int("agents", 1, "how many agents")
	http1 := flag.Bool("http1", false, "a connection for each watch")
	flag.Parse()

	var read atomic.Int64
	var answered sync.WaitGroup
	starting := make(chan struct{}, 50) // handshakes at a time
	for range *agents {
		transport := &http.Transport{
			// A server of our own on loopback, whose certificate nobody else has seen.
			TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
			ForceAttemptHTTP2:   !*http1,
			TLSHandshakeTimeout: time.Minute,
		}
		if *http1 {
			transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		}
		client := &http.Client{Transport: transport}
		for _, path := range flag.Args() {
			answered.Add(1)
			starting <- struct{}{}
			go watch(client, *server+path, *token, &read, func() { <-starting; answered.Done() })
		}
	}
	answered.Wait()
	fmt.Println("ready")
	for range time.Tick(time.Second) {
		fmt.Println(read.Load())
	}
}

func watch(client *http.Client, url, token string, read *atomic.Int64, begun func()) {
	request, err := http.NewRequest("GET", url, nil)
	if err != nil {
		fail(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Accept-Encoding", "identity")
	response, err := client.Do(request)
	for err == nil && response.StatusCode == http.StatusTooManyRequests { // as agents do, when it asks them to
		response.Body.Close()
		time.Sleep(time.Second)
		response, err = client.Do(request)
	}
	if err != nil {
		fail(err)
	}
	if response.StatusCode != http.StatusOK {
		fail(fmt.Errorf("%s: %s", url, response.Status))
	}
	begun()
	buffer := make([]byte, 4096)
	for {
		count, err := response.Body.Read(buffer)
		read.Add(int64(count))
		if err == io.EOF {
			return
		}
		if err != nil {
			fail(err)
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
