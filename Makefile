# rktshim: a Kubernetes node in one binary. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The image libraries without cgo: signatures by Go's openpgp, overlay only.
export GOFLAGS += -tags=containers_image_openpgp,exclude_graphdriver_btrfs,exclude_graphdriver_devicemapper

# What the binaries say of themselves. The Kubernetes version is the one in go.mod.
K8S     := $(shell awk '$$1 == "k8s.io/kubernetes" {print $$2}' hyperkube/go.mod)
VERSION := $(shell sed -n 's/^var Version = "\(.*\)"/\1/p' internal/version/version.go)
COMMIT  := $(shell git rev-parse --short=10 HEAD 2>/dev/null || echo unknown)
DATE    := $(shell git log -1 --format=%cI 2>/dev/null || echo 1970-01-01T00:00:00Z)

V1      := k8s.io/component-base/version
LDFLAGS := -s -w -X github.com/rktnetes/rktshim/internal/version.Version=$(VERSION)+g$(COMMIT) \
           -X $(V1).gitVersion=$(K8S) -X $(V1).gitMajor=$(word 1,$(subst ., ,$(K8S:v%=%))) \
           -X $(V1).gitMinor=$(word 2,$(subst ., ,$(K8S:v%=%))) -X $(V1).gitCommit=$(COMMIT) \
           -X $(V1).gitTreeState=clean -X $(V1).buildDate=$(DATE)

# The supervisor: one stays resident per pod, so every page counts. Its init form
# starts before the Go runtime does, on amd64 (cmd/rkt-supervisor/entry_amd64.s).
SUPERVISOR_LDFLAGS := -s -w $(if $(filter amd64,$(shell go env GOARCH)),-E main.entry)

# Packages and single tests: make check PKG=./transport RUN=TestStale; make e2e RUN=TestImage
PKG ?= ./...
RUN ?= .

TOOL := go tool -modfile=$(CURDIR)/tools/go.mod

# Debian packages that the tests and the node need.
PACKAGES := systemd-container crun runc containernetworking-plugins iptables conntrack \
            busybox-static iproute2 procps curl strace xz-utils skopeo dbus e2fsprogs util-linux \
            nginx-light

# Where e2e-v2 keeps its virtual machine.
export VM ?= $(HOME)/.cache/rktshim/vm

.PHONY: help build check test e2e e2e-v2 soak bench up down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/hyperkube, bin/rkt and bin/rkt-supervisor (the first time takes minutes: it compiles Kubernetes)
	@mkdir -p bin
	@echo "building bin/rkt-supervisor, bin/rkt and bin/hyperkube, Kubernetes $(K8S), rktshim $(VERSION)+g$(COMMIT)"
	@CGO_ENABLED=0 GOEXPERIMENT=nogreenteagc go build -trimpath -ldflags '$(SUPERVISOR_LDFLAGS)' -o bin/rkt-supervisor ./cmd/rkt-supervisor
	@cmp -s bin/rkt-supervisor hyperkube/supervisorbin/bin/rkt-supervisor || cp bin/rkt-supervisor hyperkube/supervisorbin/bin/
	@CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o hyperkube/hellobin/bin/hello ./cmd/hello
	@CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/rkt ./cmd/rkt
	@cd hyperkube && CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o ../bin/hyperkube .

check: ## gofmt, vet, staticcheck, the import-direction test and the unit tests with -race
	@bad=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); if [ -n "$$bad" ]; then echo "gofmt would change:"; echo "$$bad"; exit 1; fi
	go vet ./...
	$(TOOL) staticcheck ./...
	cd tools && go vet ./... && go tool staticcheck ./...
	go test -count=1 ./internal/layering
	go test -race -run '$(RUN)' $$(go list $(PKG) | grep -v -e /e2e)

test: ## everything that CI runs, with a summary at the end (root; installs missing Debian packages, saying so)
	@PACKAGES='$(PACKAGES)' ./e2e/run-all.sh

e2e: build ## run the built binaries as a user would (root)
	go test -count=1 -timeout 30m -v -run '$(RUN)' ./e2e

soak: build ## the long proofs: 10 minutes of 20 pods while the kubelet is killed, 110 pods at once (root; sizes: RKTSHIM_CHURN_SECONDS, RKTSHIM_CHURN_PODS, RKTSHIM_E2E_PODS)
	RKTSHIM_CHURN_SECONDS=$${RKTSHIM_CHURN_SECONDS:-600} RKTSHIM_CHURN_PODS=$${RKTSHIM_CHURN_PODS:-20} RKTSHIM_E2E_PODS=$${RKTSHIM_E2E_PODS:-110} \
		go test -count=1 -timeout 60m -v -run 'TestChurnWhileTheKubeletIsKilled|TestManyPods' ./e2e

e2e-v2: build ## pods on cgroup v2, in a virtual machine that is built once and kept in ~/.cache/rktshim (root; 20 minutes)
	@./e2e/install.sh qemu-system-x86 debootstrap kmod cpio python3 zstd e2fsprogs
	e2e/hosts/v2.sh

bench: build ## measure, and write the results with the machine and the date into README.md and docs/bench/
	@./e2e/install.sh $(PACKAGES) containerd
	cd tools && go run ./bench -rkt ../bin/rkt -supervisor ../bin/rkt-supervisor -readme ../README.md -out ../docs/bench

up: ## build and start a one-node cluster on this machine (root; installs missing Debian packages, saying so)
	@./e2e/install.sh $(PACKAGES)
	@$(MAKE) --no-print-directory build
	@bin/hyperkube local-up

down: ## end the cluster that `make up` started and remove every trace of it
	@if [ -x bin/hyperkube ]; then bin/hyperkube local-down; else echo "nothing to stop: bin/hyperkube is not built"; fi

clean: ## remove what was built, the virtual machine of e2e-v2 too
	rm -rf bin hyperkube/supervisorbin/bin/rkt-supervisor hyperkube/hellobin/bin/hello '$(VM)'
