package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
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

const longestAnswer = 1 << 20

const whatToDo = "it is tried again; if this lasts, look at the tortie pod of this node and its log"

func (a *agent) complaint(err error, timeout time.Duration) string {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "no tortie agent runs on this node: there is no socket " + a.socket
	case errors.Is(err, syscall.ECONNREFUSED): // one that was killed leaves its socket behind
		return "no tortie agent runs on this node: nobody listens at " + a.socket
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Sprintf("the tortie agent at %s did not answer within %s", a.socket, timeout)
	default:
		return fmt.Sprintf("the tortie agent at %s does not answer: %s", a.socket, err)
	}
}

// roundTrip asks and waits in system calls that block. Those of package net give the thread away while they wait, and
// to get one back is to queue for a CPU once more: where pods come by the dozen that is most of what an ADD waits for.
func (a *agent) roundTrip(method, what string, body []byte, timeout time.Duration) (int, []byte, error) {
	deadline := time.Now().Add(timeout)
	socket, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, err
	}
	defer syscall.Close(socket)
	request := bytes.Buffer{}
	fmt.Fprintf(&request, "%s /v1/cni/%s HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", method, what, len(body))
	request.Write(body)
	if err := within(deadline, socket, syscall.SO_SNDTIMEO, func() error {
		return syscall.Connect(socket, &syscall.SockaddrUnix{Name: a.socket})
	}); err != nil {
		return 0, nil, err
	}
	for request.Len() > 0 {
		if err := within(deadline, socket, syscall.SO_SNDTIMEO, func() error {
			sent, err := syscall.SendmsgN(socket, request.Bytes(), nil, nil, syscall.MSG_NOSIGNAL)
			request.Next(max(sent, 0))
			return err
		}); err != nil {
			return 0, nil, err
		}
	}
	answer := bytes.Buffer{}
	for piece := make([]byte, 4096); ; {
		received := 0
		if err := within(deadline, socket, syscall.SO_RCVTIMEO, func() (err error) {
			received, err = syscall.Read(socket, piece)
			return err
		}); err != nil {
			return 0, nil, err
		}
		if received == 0 {
			return readAnswer(bufio.NewReader(&answer))
		}
		answer.Write(piece[:received])
		if answer.Len() > longestAnswer {
			return 0, nil, errors.New("it does not stop answering")
		}
	}
}

// within makes a system call that ends by the deadline, with EAGAIN if not before. A signal, such as Go's own, ends one
// with a time limit early: it is made again.
func within(deadline time.Time, socket, option int, call func() error) error {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return syscall.EAGAIN
		}
		limit := syscall.NsecToTimeval(max(left, time.Microsecond).Nanoseconds())
		if err := syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, option, &limit); err != nil {
			return err
		}
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
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
	body, err := io.ReadAll(reader)
	return status, body, err
}
