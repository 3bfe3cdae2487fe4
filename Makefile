# Targets: build, buildkit, demo, test, bench, clients, lint, cross, fuzz, check.
# Everything is built without cgo; what a target needs beyond Go it installs or asks for by name.

export CGO_ENABLED = 0
GO ?= go
FUZZTIME ?= 60s
# Go modules: the project's own, and those that stand on it.
MODULES = . compat buildkit

build:
	$(GO) build -trimpath -o build/lazuli ./cmd/lazuli

# BuildKit's daemon with lazy-loading formats, and the proxy before any other one: a module of its own, a minute's work.
buildkit:
	cd buildkit && $(GO) build -trimpath -o ../build/ ./cmd/...

# The main job on a real image with nothing running beforehand. IMAGE=... takes another image, FULL=1 measures the
# full pull again, FULL=0 computes it. FORMAT=... takes another format than nydus.
demo: build
	$(GO) build -o build/demo ./internal/tools/demo
	build/demo -lazuli build/lazuli -dir build -image "$(IMAGE)" -full "$(FULL)" -format "$(or $(FORMAT),nydus)"

# All tests that this machine allows; what it does not allow is named with the reason. As root, mounts are tested too.
test:
	$(GO) build -o build/testrun ./internal/tools/testrun
	build/testrun $(MODULES)

race:
	set -e; for m in $(MODULES); do (cd $$m && CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...); done

# Compares with nydus-image and nydusify where they are installed.
bench: build
	$(GO) build -o build/bench ./internal/tools/bench
	build/bench -lazuli build/lazuli -dir build $(BENCHFLAGS)

# The real programs that start nydus-image, with ours. They are built by the module proxy: five minutes for the first time.
clients: build
	scripts/compare-clients.sh build/lazuli

lint:
	scripts/lint.sh

# The converter's side on other systems.
cross:
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/lazuli
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/lazuli
	GOOS=windows GOARCH=amd64 $(GO) build -o build/lazuli.exe ./cmd/lazuli
	GOOS=darwin GOARCH=arm64 $(GO) vet ./convert ./store ./formats/... ./flate ./tarfs
	GOOS=windows GOARCH=amd64 $(GO) vet ./convert ./store ./formats/... ./flate ./tarfs
	cd compat && GOOS=darwin GOARCH=arm64 $(GO) vet ./... && GOOS=windows GOARCH=amd64 $(GO) vet ./...

# Every fuzz target for FUZZTIME.
fuzz:
	scripts/fuzz.sh $(FUZZTIME)

check: lint cross test

clean:
	rm -rf build

.PHONY: build buildkit demo test race bench clients lint cross fuzz check clean
