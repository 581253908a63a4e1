package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netns"
)

const acceptDAD = "/proc/sys/net/ipv6/conf/default/accept_dad"

// prepare is what the plugin does at the front of the list, before ptp: it turns duplicate address detection off in the
// pod's network namespace. ptp waits for it to end, one to two seconds for every pod with an IPv6 address; host-local
// gives no address twice, and the link has two ends.
func prepare(args *skel.CmdArgs, conf *config) error {
	if err := inside(args.Netns, withoutDAD); err != nil {
		return types.NewError(types.ErrInvalidNetNS, "tortie-cni: cannot prepare "+args.Netns, err.Error())
	}
	if conf.PrevResult != nil {
		return types.PrintResult(conf.PrevResult, conf.CNIVersion)
	}
	return types.PrintResult(&current.Result{CNIVersion: current.ImplementedSpecVersion}, conf.CNIVersion)
}

func withoutDAD() error {
	err := os.WriteFile(acceptDAD, []byte("0"), 0)
	if errors.Is(err, os.ErrNotExist) { // no IPv6 in this kernel
		return nil
	}
	return err
}

// inside runs f in a network namespace, on this thread, and comes back.
func inside(path string, f func() error) (err error) {
	runtime.LockOSThread()
	own, err := netns.Get()
	if err != nil {
		return err
	}
	defer own.Close()
	namespace, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("no network namespace: %w", err)
	}
	defer namespace.Close()
	if err := netns.Set(namespace); err != nil {
		return err
	}
	defer func() {
		if back := netns.Set(own); back != nil {
			err = errors.Join(err, back) // the thread stays locked: nobody else gets it
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}
