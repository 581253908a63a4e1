package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// wiring stands for ptp: it speaks CNI 1.1, gives every container the same address, and checks nothing.
const wiring = `#!/bin/sh
case $CNI_COMMAND in
  VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["1.0.0", "1.1.0"]}' ;;
  ADD) echo '{"cniVersion": "1.1.0", "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/x"}],
    "ips": [{"interface": 1, "address": "10.42.0.5/24"}]}' ;;
esac
`

// The list as the agent writes it where every plugin speaks CNI 1.1, run by the library that container runtimes use.
func TestALibraryOfCNI11AsksForEverythingThatIsNew(t *testing.T) {
	socket, asked := fakeAgent(t, http(200, "{}"))
	plugins := filepath.Dir(binary(t))
	if err := os.WriteFile(filepath.Join(plugins, "wiring"), []byte(wiring), 0o755); err != nil {
		t.Fatal(err)
	}
	list, err := libcni.ConfListFromBytes([]byte(fmt.Sprintf(`{
		"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "tortie",
		"plugins": [{"type": "wiring"}, {"type": "tortie-cni", "socket": %q}]
	}`, socket)))
	if err != nil {
		t.Fatal(err)
	}
	if list.CNIVersion != "1.1.0" {
		t.Fatalf("the library chose %s", list.CNIVersion)
	}
	runtime := libcni.NewCNIConfigWithCacheDir([]string{plugins}, t.TempDir(), nil)
	pod := &libcni.RuntimeConf{
		ContainerID: "c1",
		NetNS:       "/nowhere/netns",
		IfName:      "eth0",
		Args:        [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", "front"}},
	}
	context := context.Background()
	if err := runtime.GetStatusNetworkList(context, list); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	result, err := runtime.AddNetworkList(context, list, pod)
	if err != nil {
		t.Fatalf("ADD: %v", err)
	}
	if text, _ := json.Marshal(result); !strings.Contains(string(text), "10.42.0.5/24") {
		t.Errorf("ADD passed on %s", text)
	}
	if err := runtime.CheckNetworkList(context, list, pod); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	valid := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "c1", IfName: "eth0"}}}
	if err := runtime.GCNetworkList(context, list, valid); err != nil {
		t.Errorf("GC: %v", err)
	}
	if err := runtime.DelNetworkList(context, list, pod); err != nil {
		t.Errorf("DEL: %v", err)
	}
	for _, wanted := range []string{"GET /v1/cni/status", "POST /v1/cni/add", "POST /v1/cni/check", "POST /v1/cni/gc", "POST /v1/cni/del"} {
		if told := <-asked; told.line != wanted+" HTTP/1.0" {
			t.Errorf("asked %q instead of %s", told.line, wanted)
		}
	}
}
