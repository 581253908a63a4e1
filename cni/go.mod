module tortie.dev/tortie/cni

go 1.23

require (
	github.com/containernetworking/cni v1.3.1
	github.com/vishvananda/netns v0.0.4
)

require golang.org/x/sys v0.23.0 // indirect
