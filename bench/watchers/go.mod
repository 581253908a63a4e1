module tortie.dev/bench/watchers

go 1.22
