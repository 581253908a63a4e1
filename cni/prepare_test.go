package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

func TestAtTheFrontOfTheListNobodyIsAsked(t *testing.T) {
	args := arguments("/nowhere/cni.sock", `, "prepare": true`)
	for _, run := range []func(*skel.CmdArgs) error{check, del, gc, status} {
		if err := run(args); err != nil {
			t.Error(err)
		}
	}
	args.Netns = "/nowhere/netns"
	_, err := printed(t, func() error { return add(args) })
	expectCode(t, err, types.ErrInvalidNetNS, "/nowhere/netns")
}

func TestAtTheFrontDuplicateAddressDetectionIsTurnedOffInsideAlone(t *testing.T) {
	name := fmt.Sprintf("tcnigo%d", os.Getpid())
	if text, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Skipf("needs root and ip (iproute2): %s", text)
	}
	defer exec.Command("ip", "netns", "del", name).Run()
	before, _ := os.ReadFile(acceptDAD)
	args := arguments("/nowhere/cni.sock", `, "prepare": true`)
	args.Netns = "/run/netns/" + name
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		args.StdinData = []byte(fmt.Sprintf(`{"cniVersion": %q, "name": "tortie", "type": "tortie-cni", "prepare": true}`, version))
		text, err := printed(t, func() error { return add(args) })
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text, fmt.Sprintf(`"cniVersion": %q`, version)) {
			t.Errorf("printed %s", text)
		}
	}
	there, err := exec.Command("ip", "netns", "exec", name, "cat", acceptDAD).Output()
	if err != nil || strings.TrimSpace(string(there)) != "0" {
		t.Errorf("inside it is %q: %v", there, err)
	}
	if after, _ := os.ReadFile(acceptDAD); string(after) != string(before) {
		t.Errorf("here it was %q and is %q", before, after)
	}
}
