# Targets: build, demo, test, bench, clients, lint, cross, fuzz, check.
# Everything is built without cgo; what a target needs beyond Go it installs or asks for by name.

export CGO_ENABLED = 0
GO ?= go
FUZZTIME ?= 60s

build:
	$(GO) build -trimpath -o build/lazuli ./cmd/lazuli

# The main job on a real image with nothing running beforehand. IMAGE=... takes another image, FULL=1 measures the
# full pull again, FULL=0 computes it. FORMAT=... takes another format than nydus.
demo: build
	$(GO) build -o build/demo ./internal/tools/demo
	build/demo -lazuli build/lazuli -dir build -image "$(IMAGE)" -full "$(FULL)" -format "$(or $(FORMAT),nydus)"

# All tests that this machine allows; what it does not allow is named with the reason. As root, mounts are tested too.
test:
	$(GO) build -o build/testrun ./internal/tools/testrun
	$(GO) test -json -timeout 20m ./... | build/testrun

race:
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...

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

# Every fuzz target for FUZZTIME.
fuzz:
	scripts/fuzz.sh $(FUZZTIME)

check: lint cross test

clean:
	rm -rf build

.PHONY: build demo test race bench clients lint cross fuzz check clean
