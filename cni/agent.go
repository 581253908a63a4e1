package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// attachment is one interface of one container: what the agent is told, as JSON.
type attachment struct {
	ContainerID    string   `json:"containerID"`
	IfName         string   `json:"ifName"`
	Netns          string   `json:"netns,omitempty"`
	Namespace      string   `json:"namespace,omitempty"`
	Name           string   `json:"name,omitempty"`
	UID            string   `json:"uid,omitempty"`
	Addresses      []string `json:"addresses,omitempty"`
	HostInterface  string   `json:"hostInterface,omitempty"`
	TimeoutSeconds float64  `json:"timeoutSeconds,omitempty"`
}

// refusal is what the agent says instead of yes.
type refusal struct {
	Error string `json:"error"`
	Code  uint   `json:"code"`
}

// agent is reached over its unix socket. Questions and answers are HTTP/1.0, one a connection, written by hand:
// net/http would make the binary twice as large and its start twice as long, for every pod.
type agent struct {
	socket string
}

func (a *agent) post(what string, body any, timeout time.Duration, code uint) error {
	data, err := json.Marshal(body)
	if err != nil {
		return types.NewError(types.ErrInternal, "tortie-cni: cannot say it in JSON", err.Error())
	}
	return a.ask("POST", what, data, timeout, code)
}

func (a *agent) get(what string, timeout time.Duration, code uint) error {
	return a.ask("GET", what, nil, timeout, code)
}

// ask returns nil if the agent agrees. What it refuses is an error with the agent's code, anything else with `code`.
func (a *agent) ask(method, what string, body []byte, timeout time.Duration, code uint) error {
	status, answer, err := a.roundTrip(method, what, body, timeout)
	if err != nil {
		return types.NewError(code, "tortie-cni: "+a.complaint(err, timeout), whatToDo)
	}
	if status == 200 {
		return nil
	}
	said := refusal{}
	if json.Unmarshal(answer, &said) != nil || said.Error == "" {
		said.Error = fmt.Sprintf("the agent answered %d", status)
	}
	if said.Code == 0 {
		said.Code = code
	}
	return types.NewError(said.Code, "tortie-cni: "+said.Error, "")
}

const whatToDo = "it is tried again; if this lasts, look at the tortie pod of this node and its log"

func (a *agent) complaint(err error, timeout time.Duration) string {
	var timedOut net.Error
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "no tortie agent runs on this node: there is no socket " + a.socket
	case errors.As(err, &timedOut) && timedOut.Timeout():
		return fmt.Sprintf("the tortie agent at %s did not answer within %s", a.socket, timeout)
	default:
		return fmt.Sprintf("the tortie agent at %s does not answer: %s", a.socket, err)
	}
}

func (a *agent) roundTrip(method, what string, body []byte, timeout time.Duration) (int, []byte, error) {
	connection, err := net.DialTimeout("unix", a.socket, timeout)
	if err != nil {
		return 0, nil, err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(timeout)); err != nil {
		return 0, nil, err
	}
	request := bytes.Buffer{}
	fmt.Fprintf(&request, "%s /v1/cni/%s HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", method, what, len(body))
	request.Write(body)
	if _, err := connection.Write(request.Bytes()); err != nil {
		return 0, nil, err
	}
	return readAnswer(bufio.NewReader(connection))
}

// readAnswer reads an HTTP/1.0 response: it ends with the connection, and has no other encoding.
func readAnswer(reader *bufio.Reader) (int, []byte, error) {
	line, err := reader.ReadString('\n')
	if err != nil {
		return 0, nil, err
	}
	words := strings.Fields(line)
	if len(words) < 2 || !strings.HasPrefix(words[0], "HTTP/1.") {
		return 0, nil, fmt.Errorf("%q is no HTTP", strings.TrimSpace(line))
	}
	status, err := strconv.Atoi(words[1])
	if err != nil {
		return 0, nil, fmt.Errorf("%q is no HTTP", strings.TrimSpace(line))
	}
	for {
		header, err := reader.ReadString('\n')
		if err != nil {
			return 0, nil, err
		}
		if strings.TrimSpace(header) == "" {
			break
		}
	}
	body, err := io.ReadAll(io.LimitReader(reader, 1<<20))
	return status, body, err
}
