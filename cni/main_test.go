package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// question is one request a fake agent got.
type question struct {
	line string
	body string
}

// fakeAgent answers every question with the same text, and keeps the questions.
func fakeAgent(t *testing.T, answer string) (string, chan question) {
	t.Helper()
	directory, err := os.MkdirTemp("", "tortie") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	path := filepath.Join(directory, "cni.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	asked := make(chan question, 10)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			asked <- read(bufio.NewReader(connection))
			if answer != "" {
				io.WriteString(connection, answer)
				connection.Close()
			}
		}
	}()
	return path, asked
}

func read(reader *bufio.Reader) question {
	line, _ := reader.ReadString('\n')
	length := 0
	for {
		header, _ := reader.ReadString('\n')
		if strings.TrimSpace(header) == "" {
			break
		}
		fmt.Sscanf(header, "Content-Length: %d", &length)
	}
	body := make([]byte, length)
	io.ReadFull(reader, body)
	return question{strings.TrimSpace(line), string(body)}
}

func http(status int, body string) string {
	return fmt.Sprintf("HTTP/1.0 %d Some Reason\r\nContent-Type: application/json\r\n\r\n%s", status, body)
}

const prevResult = `{
	"cniVersion": "1.0.0",
	"interfaces": [
		{"name": "veth1", "mac": "aa:00:00:00:00:01"},
		{"name": "eth0", "mac": "aa:00:00:00:00:02", "sandbox": "/run/netns/x"},
		{"name": "bwp1", "mac": "aa:00:00:00:00:03"}
	],
	"ips": [
		{"interface": 1, "address": "10.42.0.5/24", "gateway": "10.42.0.1"},
		{"interface": 1, "address": "fd42::5/64", "gateway": "fd42::1"}
	],
	"routes": [{"dst": "0.0.0.0/0"}]
}`

func arguments(socket, more string) *skel.CmdArgs {
	return &skel.CmdArgs{
		ContainerID: "c1",
		Netns:       "/run/netns/x",
		IfName:      "eth0",
		Args:        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=front;K8S_POD_UID=u-1;K8S_POD_INFRA_CONTAINER_ID=c1",
		StdinData:   []byte(fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "tortie", "type": "tortie-cni", "socket": %q%s}`, socket, more)),
	}
}

func wired(socket string) *skel.CmdArgs {
	return arguments(socket, `, "prevResult": `+prevResult)
}

// printed runs f and returns what it wrote to standard output.
func printed(t *testing.T, f func() error) (string, error) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	before := os.Stdout
	os.Stdout = writer
	failure := f()
	os.Stdout = before
	writer.Close()
	text, _ := io.ReadAll(reader)
	return string(text), failure
}

func expectCode(t *testing.T, err error, code uint, words ...string) {
	t.Helper()
	var failure *types.Error
	if !errors.As(err, &failure) {
		t.Fatalf("no CNI error: %v", err)
	}
	if failure.Code != code {
		t.Errorf("code %d instead of %d: %v", failure.Code, code, err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not said: %v", word, err)
		}
	}
}

func TestAddTellsTheAgentAndPassesTheResultOn(t *testing.T) {
	socket, asked := fakeAgent(t, http(200, "{}"))
	text, err := printed(t, func() error { return add(wired(socket)) })
	if err != nil {
		t.Fatal(err)
	}
	told := <-asked
	if told.line != "POST /v1/cni/add HTTP/1.0" {
		t.Errorf("asked %q", told.line)
	}
	wanted := `{"containerID":"c1","ifName":"eth0","netns":"/run/netns/x","namespace":"shop","name":"front","uid":"u-1",` +
		`"addresses":["10.42.0.5","fd42::5"],"hostInterface":"veth1","timeoutSeconds":10}`
	if told.body != wanted {
		t.Errorf("told %s", told.body)
	}
	var before, after any
	json.Unmarshal([]byte(prevResult), &before)
	if err := json.Unmarshal([]byte(text), &after); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if one, other := fmt.Sprint(before), fmt.Sprint(after); one != other {
		t.Errorf("the result was changed:\n%s\n%s", one, other)
	}
}

// Each version's result, with everything it may hold: what a plugin does not know it would leave out.
var results = map[string]string{
	"0.3.1": `{
		"cniVersion": "0.3.1",
		"interfaces": [{"name": "veth1", "mac": "aa:00:00:00:00:01"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
		"ips": [
			{"version": "4", "interface": 1, "address": "10.42.0.5/24", "gateway": "10.42.0.1"},
			{"version": "6", "interface": 1, "address": "fd42::5/64", "gateway": "fd42::1"}
		],
		"routes": [{"dst": "0.0.0.0/0", "gw": "10.42.0.1"}],
		"dns": {"nameservers": ["10.43.0.10"], "search": ["svc.cluster.local"]}
	}`,
	"0.4.0": `{
		"cniVersion": "0.4.0",
		"interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
		"ips": [{"version": "4", "interface": 1, "address": "10.42.0.5/24"}, {"version": "6", "interface": 1, "address": "fd42::5/64"}],
		"routes": [{"dst": "::/0"}],
		"dns": {}
	}`,
	"1.0.0": prevResult,
	"1.1.0": `{
		"cniVersion": "1.1.0",
		"interfaces": [
			{"name": "veth1", "mac": "aa:00:00:00:00:01", "mtu": 8950},
			{"name": "eth0", "mac": "aa:00:00:00:00:02", "mtu": 8950, "sandbox": "/run/netns/x", "socketPath": "/s", "pciID": "0000:00:1f.6"}
		],
		"ips": [
			{"interface": 1, "address": "10.42.0.5/24", "gateway": "10.42.0.1"},
			{"interface": 1, "address": "fd42::5/64", "gateway": "fd42::1"}
		],
		"routes": [{"dst": "0.0.0.0/0", "mtu": 1500, "advmss": 1460, "priority": 5, "table": 100, "scope": 253}],
		"dns": {"domain": "cluster.local"}
	}`,
}

func TestTheResultOfEachVersionIsPassedOnUnchanged(t *testing.T) {
	for version, result := range results {
		socket, asked := fakeAgent(t, http(200, "{}"))
		args := wired(socket)
		args.StdinData = []byte(fmt.Sprintf(`{"cniVersion": %q, "name": "tortie", "type": "tortie-cni", "socket": %q, "prevResult": %s}`, version, socket, result))
		text, err := printed(t, func() error { return add(args) })
		if err != nil {
			t.Fatalf("%s: %v", version, err)
		}
		if told := <-asked; !strings.Contains(told.body, `"addresses":["10.42.0.5","fd42::5"],"hostInterface":"veth1"`) {
			t.Errorf("%s: told %s", version, told.body)
		}
		var before, after map[string]any
		json.Unmarshal([]byte(result), &before)
		if err := json.Unmarshal([]byte(text), &after); err != nil {
			t.Fatalf("%s: %v: %s", version, err, text)
		}
		if _, has := before["dns"]; !has {
			delete(after, "dns") // empty
		}
		if one, other := fmt.Sprint(before), fmt.Sprint(after); one != other {
			t.Errorf("%s: the result was changed:\n%s\n%s", version, one, other)
		}
	}
}

func TestTheTimeLimitOfTheConfigurationIsHandedOver(t *testing.T) {
	socket, asked := fakeAgent(t, http(200, "{}"))
	args := arguments(socket, `, "timeoutSeconds": 2.5, "prevResult": `+prevResult)
	if _, err := printed(t, func() error { return add(args) }); err != nil {
		t.Fatal(err)
	}
	if told := <-asked; !strings.Contains(told.body, `"timeoutSeconds":2.5`) {
		t.Errorf("told %s", told.body)
	}
}

func TestAddWithoutAnAgentIsToBeTriedAgainLater(t *testing.T) {
	text, err := printed(t, func() error { return add(wired("/nowhere/cni.sock")) })
	expectCode(t, err, types.ErrTryAgainLater, "no tortie agent runs", "/nowhere/cni.sock", "tried again")
	if text != "" {
		t.Errorf("printed %s", text)
	}
}

func TestTheSocketOfAnAgentThatWasKilledIsNoAgent(t *testing.T) {
	directory, err := os.MkdirTemp("", "tortie") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	socket := filepath.Join(directory, "cni.sock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	_, err = printed(t, func() error { return add(wired(socket)) })
	expectCode(t, err, types.ErrTryAgainLater, "no tortie agent runs", "nobody listens", "tried again")
}

func TestAddSaysWhatTheAgentSays(t *testing.T) {
	socket, _ := fakeAgent(t, http(503, `{"error": "pod shop/front is not known yet", "code": 11}`))
	_, err := printed(t, func() error { return add(wired(socket)) })
	expectCode(t, err, types.ErrTryAgainLater, "pod shop/front is not known yet")
}

func TestAnAnswerWithoutReasonIsAnErrorToo(t *testing.T) {
	for _, answer := range []string{http(500, "oh"), http(503, ""), "SSH-2.0\r\n\r\n", "\r\n"} {
		socket, _ := fakeAgent(t, answer)
		_, err := printed(t, func() error { return add(wired(socket)) })
		expectCode(t, err, types.ErrTryAgainLater)
	}
}

func TestAnAgentThatHangsIsNotWaitedForForEver(t *testing.T) {
	socket, _ := fakeAgent(t, "")
	err := (&agent{socket: socket}).post("add", attachment{}, 50*time.Millisecond, types.ErrTryAgainLater)
	expectCode(t, err, types.ErrTryAgainLater, "did not answer within 50ms")
}

// drippingAgent answers a byte at a time.
func drippingAgent(t *testing.T, answer string, pause time.Duration) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		read(bufio.NewReader(connection))
		for _, each := range []byte(answer) {
			if _, err := connection.Write([]byte{each}); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}()
	return path
}

func TestAnAnswerInPiecesIsReadWhole(t *testing.T) {
	socket := drippingAgent(t, http(503, `{"error": "not yet", "code": 11}`), 0)
	err := (&agent{socket: socket}).post("add", attachment{}, 10*time.Second, 0)
	expectCode(t, err, types.ErrTryAgainLater, "not yet")
}

func TestTheTimeLimitIsOfTheWholeAnswer(t *testing.T) {
	socket := drippingAgent(t, http(200, strings.Repeat(" ", 1000)), 20*time.Millisecond)
	err := (&agent{socket: socket}).post("add", attachment{}, 100*time.Millisecond, types.ErrTryAgainLater)
	expectCode(t, err, types.ErrTryAgainLater, "did not answer within 100ms")
}

func TestAnAnswerWithoutEndIsRefused(t *testing.T) {
	socket, _ := fakeAgent(t, http(200, strings.Repeat("x", 2*longestAnswer)))
	err := (&agent{socket: socket}).post("add", attachment{}, 10*time.Second, types.ErrTryAgainLater)
	expectCode(t, err, types.ErrTryAgainLater, "does not stop answering")
}

func TestAContainerThatIsNoPodIsRefused(t *testing.T) {
	args := wired("/nowhere/cni.sock")
	args.Args = "IgnoreUnknown=1"
	_, err := printed(t, func() error { return add(args) })
	expectCode(t, err, types.ErrInvalidEnvironmentVariables, "K8S_POD_NAME")
}

func TestAddAtTheWrongPlaceOfTheListIsRefused(t *testing.T) {
	_, err := printed(t, func() error { return add(arguments("/nowhere/cni.sock", "")) })
	expectCode(t, err, types.ErrInvalidNetworkConfig, "no prevResult", "after ptp")
	noHost := `, "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.42.0.5/24"}]}`
	_, err = printed(t, func() error { return add(arguments("/nowhere/cni.sock", noHost)) })
	expectCode(t, err, types.ErrInvalidNetworkConfig, "1 addresses")
}

func TestAConfigurationThatIsNoneIsRefused(t *testing.T) {
	args := wired("/nowhere/cni.sock")
	args.StdinData = []byte(`{"socket": 5}`)
	for _, run := range []func(*skel.CmdArgs) error{add, check, del, gc, status} {
		expectCode(t, run(args), types.ErrDecodingFailure)
	}
}

func TestDelAndGCSucceedWhateverTheAgentSays(t *testing.T) {
	refusing, _ := fakeAgent(t, http(500, `{"error": "no"}`))
	for _, socket := range []string{refusing, "/nowhere/cni.sock"} {
		if err := del(arguments(socket, "")); err != nil {
			t.Error(err)
		}
		if err := gc(arguments(socket, "")); err != nil {
			t.Error(err)
		}
	}
}

func TestDelNeedsNoPreviousResultAndNoPodName(t *testing.T) {
	socket, asked := fakeAgent(t, http(200, "{}"))
	args := arguments(socket, "")
	args.Args = ""
	if err := del(args); err != nil {
		t.Fatal(err)
	}
	if told := <-asked; told.line != "POST /v1/cni/del HTTP/1.0" || told.body != `{"containerID":"c1","ifName":"eth0"}` {
		t.Errorf("told %v", told)
	}
}

func TestDelAndGCNeedNoResultThatCanBeRead(t *testing.T) {
	for _, result := range []string{`{"cniVersion": "7.0.0"}`, `{"cniVersion": "1.0.0", "ips": [{"address": "nowhere"}]}`} {
		args := arguments("/nowhere/cni.sock", `, "prevResult": `+result)
		for _, run := range []func(*skel.CmdArgs) error{del, gc} {
			if err := run(args); err != nil {
				t.Errorf("%s: %v", result, err)
			}
		}
		if err := add(args); err == nil {
			t.Errorf("%s: ADD took it", result)
		}
	}
}

func TestGCHandsOverWhatIsStillValid(t *testing.T) {
	socket, asked := fakeAgent(t, http(200, "{}"))
	valid := `, "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "eth0"}]`
	if err := gc(arguments(socket, valid)); err != nil {
		t.Fatal(err)
	}
	wanted := `{"attachments":[{"containerID":"c1","ifName":"eth0"},{"containerID":"c2","ifName":"eth0"}],"network":"tortie"}`
	if told := <-asked; told.line != "POST /v1/cni/gc HTTP/1.0" || told.body != wanted {
		t.Errorf("told %v", told)
	}
}

func TestStatusIsTheAgents(t *testing.T) {
	well, asked := fakeAgent(t, http(200, "{}"))
	if err := status(arguments(well, "")); err != nil {
		t.Error(err)
	}
	if told := <-asked; told.line != "GET /v1/cni/status HTTP/1.0" {
		t.Errorf("told %v", told)
	}
	unwell, _ := fakeAgent(t, http(503, `{"error": "the objects have not been read yet"}`))
	expectCode(t, status(arguments(unwell, "")), types.ErrPluginNotAvailable, "have not been read yet")
	expectCode(t, status(arguments("/nowhere/cni.sock", "")), types.ErrPluginNotAvailable, "no tortie agent runs")
}

func TestCheckAsksForThePodAsItWasAdded(t *testing.T) {
	socket, asked := fakeAgent(t, http(200, "{}"))
	if err := check(wired(socket)); err != nil {
		t.Fatal(err)
	}
	if told := <-asked; told.line != "POST /v1/cni/check HTTP/1.0" || !strings.Contains(told.body, `"addresses":["10.42.0.5","fd42::5"]`) {
		t.Errorf("told %v", told)
	}
	wrong, _ := fakeAgent(t, http(409, `{"error": "veth1 is not in group 97", "code": 999}`))
	expectCode(t, check(wired(wrong)), types.ErrInternal, "veth1")
}

// The rest goes through the binary, as a runtime runs it.

func binary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tortie-cni")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return path
}

func TestTheBinarySpeaksCNI(t *testing.T) {
	path := binary(t)
	run := func(command, stdin string) (map[string]any, error) {
		process := exec.Command(path)
		process.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=", "CNI_IFNAME=eth0", "CNI_PATH=/none"}
		process.Stdin = strings.NewReader(stdin)
		text, err := process.Output()
		said := map[string]any{}
		json.Unmarshal(text, &said)
		return said, err
	}
	conf := `{"cniVersion": %q, "name": "tortie", "type": "tortie-cni", "socket": "/nowhere/cni.sock"}`
	if said, err := run("VERSION", ""); err != nil || !strings.Contains(fmt.Sprint(said["supportedVersions"]), "1.1.0") {
		t.Errorf("VERSION: %v %v", said, err)
	}
	if said, err := run("DEL", fmt.Sprintf(conf, "1.0.0")); err != nil {
		t.Errorf("DEL: %v %v", said, err)
	}
	if said, err := run("GC", fmt.Sprintf(conf, "1.1.0")); err != nil {
		t.Errorf("GC: %v %v", said, err)
	}
	if said, err := run("STATUS", fmt.Sprintf(conf, "1.1.0")); err == nil || said["code"] != 50.0 {
		t.Errorf("STATUS: %v %v", said, err)
	}
	if said, err := run("STATUS", fmt.Sprintf(conf, "1.0.0")); err == nil || said["code"] != 1.0 {
		t.Errorf("STATUS of a configuration before 1.1: %v %v", said, err)
	}
	if said, err := run("ADD", fmt.Sprintf(conf, "0.2.0")); err == nil {
		t.Errorf("ADD in a version without lists: %v", said)
	}
}
