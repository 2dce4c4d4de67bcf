# Kedge: `make demo` shows it, `make test` proves it. Both install what is missing.
GO      ?= go
BIN     := bin/kedge
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
UNIT    = $(shell $(GO) list ./... | grep -v -e /internal/lab)
LAB     = $(shell $(GO) list ./internal/lab/... | grep -v -e /lab/uml)

.PHONY: build setup demo demo-node test unit test-ebpf scenarios judge test-long bench bench-dataplane bench-gate fuzz lint cover clean

build: ## one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./cmd/kedge

setup: ## installs the Debian packages that the lab and the tests use
	@tools/setup

demo: setup build ## a whole network on this machine: hosts roam and keep their addresses
	@tools/asroot $(BIN) lab run --live lab/scenarios/demo.yaml

demo-node: setup build ## a laptop that moves by itself: home, IPv6, IPv4, NATs, and home again
	@tools/asroot $(BIN) lab run --live lab/scenarios/demo-node.yaml

test: setup lint unit bench-gate scenarios judge ## everything that CI runs

unit: ## machine tests, simulations, namespaces, with the race detector
	@tools/asroot $(GO) test -race -timeout 20m $(UNIT)

test-ebpf: setup ## the back end in the kernel, and whether its committed object is what its sources make
	@tools/asroot $(GO) test -count=1 -timeout 15m ./internal/dataplane/ebpf ./internal/dataplane/pins

scenarios: build ## whole networks with real hosts
	@tools/asroot $(GO) test -count=1 -timeout 25m $(LAB)

judge: setup ## a second kernel, with tunnels, ESP and Mobile IPv6 of its own, on the other end of ours; two minutes
	@tools/asroot $(GO) test -count=1 -timeout 6m ./internal/lab/uml/...

test-long: setup build ## more seeds, longer fuzzing, all scenarios with every data plane
	@tools/asroot env KEDGE_LONG=1 $(GO) test -race -timeout 120m $(UNIT)
	@tools/asroot env KEDGE_LONG=1 $(GO) test -count=1 -timeout 120m ./internal/lab/...
	@tools/fuzz 120s

bench: setup build ## figures, each beside a base line of the same run
	$(GO) test -run '^$$' -bench . -benchmem -timeout 60m $(UNIT) | grep -E '^(pkg|cpu|Benchmark|FAIL|panic)'
	$(GO) build -o bin/wgpeer ./internal/lab/wgpeer
	@tools/asroot $(BIN) lab run --quiet bench-handover bench-node bench-ro bench-ro-near bench-ro-far bench-nemo
	@tools/asroot $(BIN) lab run --quiet --dataplane user bench-ro-near bench-ro-far

bench-dataplane: build ## the data planes beside plain routing, VXLAN and wireguard-go; 25 minutes, on a machine that does nothing else
	@tools/asroot $(BIN) bench dataplane --pictures docs/dataplane --markdown docs/dataplane.md

bench-gate: build ## fails if a data plane is beyond doubt less than half as good as promised; a minute or two
	@tools/asroot $(BIN) bench dataplane --gate

fuzz: ## every parser for 20 s
	@tools/fuzz 20s

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "gofmt these files"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

cover: ## which requirements the tests claim
	@tools/coverage

clean:
	rm -rf bin lab-out
