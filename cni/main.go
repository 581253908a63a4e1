// Command tortie-cni is the last plugin of a node's CNI chain, and the first where pods have IPv6. At the end it tells
// the Tortie agent about a pod that ptp and host-local have wired, and returns only when the pod's policy is in the
// kernel: no container of the pod starts before that. It keeps nothing, and the result of the plugins before it is passed
// on as it came.
package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// Version is set by the linker.
var Version = "unknown"

const (
	defaultSocket  = "/run/tortie/cni.sock"
	defaultTimeout = 10 * time.Second
	// The agent answers within the time limit it is given; what is on top is for the way there and back.
	answerMargin = 2 * time.Second
	// DEL, GC and STATUS wait for nothing but the agent's attention.
	shortTimeout = 2 * time.Second
)

// Before 0.3 there are no lists of plugins.
var versions = version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

type config struct {
	types.PluginConf
	Socket         string  `json:"socket"`
	TimeoutSeconds float64 `json:"timeoutSeconds"`
	Prepare        bool    `json:"prepare"`
}

func (c *config) agent() *agent {
	if c.Socket == "" {
		return &agent{socket: defaultSocket}
	}
	return &agent{socket: c.Socket}
}

func (c *config) timeout() time.Duration {
	if c.TimeoutSeconds <= 0 {
		return defaultTimeout
	}
	return time.Duration(c.TimeoutSeconds * float64(time.Second))
}

// What kubelets say about a pod, through the runtime. Fields are named as they are in CNI_ARGS.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE types.UnmarshallableString
	K8S_POD_NAME      types.UnmarshallableString
	K8S_POD_UID       types.UnmarshallableString
}

func init() {
	runtime.LockOSThread() // one thread for all there is to do: to change to another is to wait for a CPU
}

func main() {
	funcs := skel.CNIFuncs{Add: add, Check: check, Del: del, GC: gc, Status: status}
	skel.PluginMainFuncs(funcs, versions, "tortie-cni "+Version+": waits until a pod's policy is in force")
}

func add(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if err := conf.readResult(); err != nil {
		return err
	}
	if conf.Prepare {
		return prepare(args, conf)
	}
	wanted, err := attachmentOf(args, conf)
	if err != nil {
		return err
	}
	wanted.TimeoutSeconds = conf.timeout().Seconds()
	if err := conf.agent().post("add", wanted, conf.timeout()+answerMargin, types.ErrTryAgainLater); err != nil {
		return err
	}
	return types.PrintResult(conf.PrevResult, conf.CNIVersion)
}

func check(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil || conf.Prepare {
		return err
	}
	if err := conf.readResult(); err != nil {
		return err
	}
	wanted, err := attachmentOf(args, conf)
	if err != nil {
		return err
	}
	return conf.agent().post("check", wanted, shortTimeout, types.ErrTryAgainLater)
}

// DEL succeeds whatever the agent says, or if it is away: what it knows of a pod goes with the pod's link, which ptp
// removes next. A DEL that failed would only keep the pod from being removed.
func del(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil || conf.Prepare {
		return err
	}
	_ = conf.agent().post("del", attachment{ContainerID: args.ContainerID, IfName: args.IfName}, shortTimeout, 0)
	return nil
}

// GC likewise: an agent that is away finds out by itself, when it is back, what exists.
func gc(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil || conf.Prepare {
		return err
	}
	valid := make([]attachment, 0, len(conf.ValidAttachments))
	for _, each := range conf.ValidAttachments {
		valid = append(valid, attachment{ContainerID: each.ContainerID, IfName: each.IfName})
	}
	_ = conf.agent().post("gc", map[string]any{"network": conf.Name, "attachments": valid}, shortTimeout, 0)
	return nil
}

func status(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil || conf.Prepare {
		return err
	}
	return conf.agent().get("status", shortTimeout, types.ErrPluginNotAvailable)
}

func parse(data []byte) (*config, error) {
	conf := &config{}
	if err := json.Unmarshal(data, conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "tortie-cni: its part of the network configuration is no JSON of the right form", err.Error())
	}
	return conf, nil
}

// readResult takes over what the plugins before said. DEL, GC and STATUS go without: a result that somebody wrote down
// long ago must keep no pod from being removed.
func (c *config) readResult() error {
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return types.NewError(types.ErrDecodingFailure, "tortie-cni: prevResult is not of the configuration's CNI version", err.Error())
	}
	return nil
}

// attachmentOf gathers what the agent has to know of the pod: names from the kubelet, wires from the plugins before.
func attachmentOf(args *skel.CmdArgs, conf *config) (attachment, error) {
	found := attachment{ContainerID: args.ContainerID, IfName: args.IfName, Netns: args.Netns}
	pod := podArgs{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	if err := types.LoadArgs(args.Args, &pod); err != nil {
		return found, types.NewError(types.ErrInvalidEnvironmentVariables, "tortie-cni: CNI_ARGS cannot be read", err.Error())
	}
	found.Namespace, found.Name, found.UID = string(pod.K8S_POD_NAMESPACE), string(pod.K8S_POD_NAME), string(pod.K8S_POD_UID)
	if found.Namespace == "" || found.Name == "" {
		return found, types.NewError(types.ErrInvalidEnvironmentVariables,
			"tortie-cni: CNI_ARGS name no pod (K8S_POD_NAMESPACE, K8S_POD_NAME)",
			"this network is for pods that a kubelet starts; give other containers a network of their own")
	}
	if conf.PrevResult == nil {
		return found, types.NewError(types.ErrInvalidNetworkConfig,
			"tortie-cni: there is no prevResult", "it belongs at the end of a list of plugins, after ptp")
	}
	result, err := current.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return found, types.NewError(types.ErrDecodingFailure, "tortie-cni: prevResult cannot be read", err.Error())
	}
	for _, ip := range result.IPs {
		// A container may have other interfaces; those are not of this list.
		if ip.Interface == nil || *ip.Interface >= len(result.Interfaces) || result.Interfaces[*ip.Interface].Sandbox != "" {
			found.Addresses = append(found.Addresses, ip.Address.IP.String())
		}
	}
	// The host's end of the pod's link comes first; bandwidth adds a device of its own after it.
	for _, link := range result.Interfaces {
		if link.Sandbox == "" {
			found.HostInterface = link.Name
			break
		}
	}
	if len(found.Addresses) == 0 || found.HostInterface == "" {
		return found, types.NewError(types.ErrInvalidNetworkConfig,
			fmt.Sprintf("tortie-cni: prevResult has %d addresses of the pod and names %q as the host's end of its link", len(found.Addresses), found.HostInterface),
			"the plugin before has to wire pods as ptp does")
	}
	return found, nil
}
