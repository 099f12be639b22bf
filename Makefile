# Everything a developer or CI does, by name. `make` alone explains.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
MODELS := .cache/models
TOOLS := .cache/tools
export STANDPIPE_MODELS_DIR ?= $(MODELS)
# The oldest protoc whose stubs every supported protobuf runtime (4.25 to 7) imports.
PROTOC_TOOLS := grpcio-tools==1.62.3

# What looks at the chart's manifests; a module of its own, since it reads API versions that Kubernetes 1.36 has no types of.
KUBE_SCORE := github.com/zegl/kube-score/cmd/kube-score@v1.20.0

# The stock gRPC client that a test lists and calls the API with.
GRPCURL := github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4

.PHONY: help setup tools demo test test-gpu test-long chaos verify proto lint types layers eval eval-engines eval-pii eval-safety eval-embed bench bench-embed bench-sizing bench-k8s lock clean k8s-tools test-k8s

help:  ## Say what there is
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready $(MODELS)/ready  ## Make the virtual environment, the model and the tokenizer ranks

$(VENV)/ready: .ci/dev.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here; try: make PYTHON=python3 (3.11 or newer)"; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .ci/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# What a release adds to a model is added to the one that is there.
$(MODELS)/ready: $(VENV)/ready sidecar/fetch.py sidecar/bert.py
	$(BIN)/standpipe model fetch --to $(MODELS)
	$(BIN)/standpipe model ranks --to $(MODELS)
	@touch $@

tools: $(TOOLS)/grpcurl $(TOOLS)/onnxruntime-gpu/ready  ## Get the stock clients and libraries that tests use; needs Go

$(TOOLS)/grpcurl:
	GOBIN=$(CURDIR)/$(TOOLS) go install $(GRPCURL)

# Linux on x86-64 has this package, and nothing else has it.
$(TOOLS)/onnxruntime-gpu/ready: .ci/gpu.lock | $(VENV)/ready
	rm -rf $(@D) && mkdir -p $(@D)
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target $(@D) -r $<; \
	fi
	@touch $@

# --- Kubernetes ----------------------------------------------------------------------------------------------

K8S_TOOLS := helm3 helm4 helm-unittest kubeconform kube-score promtool kustomize etcd kube-apiserver

k8s-tools: $(addprefix $(TOOLS)/,$(K8S_TOOLS)) $(TOOLS)/schemas/ready  ## Build Helm, an API server and what else tests of k8s/ use; needs Go 1.26

# Their versions stand in .ci/k8s/go.mod. Go itself sees that a tool is up to date, so that a new clone costs seconds.
# $(1): the tool, $(2): its package, $(3): flags of the build.
define k8s-tool
$(TOOLS)/$(1): .ci/k8s/go.mod .ci/k8s/go.sum
	cd .ci/k8s && CGO_ENABLED=0 go build $(3) -o $(CURDIR)/$(TOOLS)/$(1) $(2)
	@touch $$@
endef
# The API server says of itself the version that it is given here.
APISERVER = $(shell cd .ci/k8s && go list -m -f '{{.Version}}' k8s.io/kubernetes)
stamped = -ldflags '-X k8s.io/component-base/version.gitVersion=$(APISERVER) -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(APISERVER)))'
$(eval $(call k8s-tool,helm3,helm.sh/helm/v3/cmd/helm))
$(eval $(call k8s-tool,helm4,helm.sh/helm/v4/cmd/helm))
$(eval $(call k8s-tool,helm-unittest,github.com/helm-unittest/helm-unittest/cmd/helm-unittest))
$(eval $(call k8s-tool,kubeconform,github.com/yannh/kubeconform/cmd/kubeconform))
$(eval $(call k8s-tool,promtool,github.com/prometheus/prometheus/cmd/promtool,-tags remove_all_sd))
$(eval $(call k8s-tool,kustomize,sigs.k8s.io/kustomize/kustomize/v5))
$(eval $(call k8s-tool,etcd,go.etcd.io/etcd/server/v3))
$(eval $(call k8s-tool,kube-apiserver,k8s.io/kubernetes/cmd/kube-apiserver,$$(stamped)))

$(TOOLS)/kube-score:
	GOBIN=$(CURDIR)/$(TOOLS) CGO_ENABLED=0 go install $(KUBE_SCORE)

# The shapes of what the chart renders, out of the modules of Kubernetes and of the operators.
$(TOOLS)/schemas/ready: .ci/k8s/schemas.py .ci/k8s/go.mod | $(VENV)/ready
	$(BIN)/python $< $(@D)
	@touch $@

.PHONY: chart-patches
chart-patches: $(VENV)/ready $(TOOLS)/helm4  ## Write the patches of k8s/kustomize from the chart's template
	$(BIN)/python k8s/chart/patches.py --helm $(TOOLS)/helm4

test-k8s: setup  ## Run the tests of images, chart, policies and pods, and say which tools were missing
	$(TEST) tests/k8s --timeout 600

bench-k8s: setup $(TOOLS)/helm4  ## Measure the image in pods under podman: sizes, start, memory, calls; needs root and `make image`
	$(BIN)/python -m tests.k8s.measure

demo: setup  ## Replay a conversation through the gRPC API and show the bundle
	$(BIN)/standpipe demo --models-dir $(MODELS)

# --- clients -------------------------------------------------------------------------------------------------

FRAMEWORK_TESTS := $(TOOLS)/framework-tests

# The virtual environment that tests run in, and the frameworks that there are adapters for.
$(VENV)/clients-ready: .ci/clients.lock $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .ci/clients.lock
	@touch $@

# The frameworks' own tests, which only their sources have.
$(FRAMEWORK_TESTS)/ready: .ci/framework-tests.lock | $(VENV)/clients-ready
	rm -rf $(@D) && mkdir -p $(@D)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps --no-binary :all: \
	    --no-build-isolation --dest $(@D) -r $<
	cd $(@D) && for source in *.tar.gz; do tar -xzf $$source && rm $$source || exit 1; done
	@touch $@

.PHONY: clients test-clients
clients: setup  ## Build the clients' packages and their tests' drivers, of the languages whose toolchains are here
	$(BIN)/python -m tests.clients.languages

test-clients: setup $(VENV)/clients-ready $(FRAMEWORK_TESTS)/ready  ## Test the clients of all languages and the adapters, and say what was skipped; needs Go, npm and Maven
	$(BIN)/python -m tests.clients.languages --test
	TEST_EXPECTS="$$TEST_EXPECTS clients" $(TEST) tests/clients --timeout 600

# --- tests ---------------------------------------------------------------------------------------------------

# Three at a time on two cores: many tests wait for a server or a clock. Files keep the order of tests/conftest.py.
TEST := $(BIN)/python -m pytest -q -rs -n 3 --dist loadfile --no-loadscope-reorder

test: setup  ## Run the tests
	$(TEST) -m 'not needs'

test-long: setup  ## Run races, faults and kill -9 for 200 rounds each, and chaos with every plant
	TEST_ROUNDS=200 $(BIN)/python -m pytest -q -s tests/faults tests/chaos --timeout 3600

RECORD ?= postgresql
HOT ?= redis
SECONDS ?= 600

chaos: setup  ## Harm all under a load, and check what was promised: make chaos HOT=cluster SECONDS=60 SEED=7
	$(BIN)/python -m tests.chaos --record $(RECORD) --hot $(HOT) --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

verify: setup lint types layers proto-check  ## Run what CI runs besides the tests

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m k8s.chart.describe --check

.PHONY: chart-docs
chart-docs: $(VENV)/ready  ## Write the chart's schema and table of values from the comments of values.yaml
	$(BIN)/python -m k8s.chart.describe

types: $(VENV)/ready
	$(BIN)/mypy

layers: $(VENV)/ready
	$(BIN)/lint-imports

# --- images --------------------------------------------------------------------------------------------------

image: image-cpu  ## Build the image for CPUs, and its bill of materials: make image [BASE=NAME@sha256:…]

image-cuda13:  ## Build the image for GPUs, 2 GB: make image-cuda13 [BASE=NAME@sha256:…]

.PHONY: image image-cpu image-cuda13
image-cpu image-cuda13: image-%: setup
	$(BIN)/python k8s/image/context.py $* build/image/$* $(MODELS)
	k8s/image/build $* build/image/$* $(BASE)

# --- protos --------------------------------------------------------------------------------------------------

$(TOOLS)/protoc/ready: Makefile
	$(PYTHON) -m venv $(TOOLS)/protoc
	$(TOOLS)/protoc/bin/python -m pip install --quiet --disable-pip-version-check '$(PROTOC_TOOLS)' 'setuptools<80'
	@touch $@

$(TOOLS)/buf/ready: .ci/package.json .ci/package-lock.json
	mkdir -p $(TOOLS)/buf && cp .ci/package.json .ci/package-lock.json $(TOOLS)/buf/
	cd $(TOOLS)/buf && npm install --no-save --silent --no-audit --no-fund
	@touch $@

proto: $(TOOLS)/protoc/ready  ## Write the stubs and the OpenAPI file from protos/
	$(call generate,clients/python,.)
	$(call describe,protos/openapi.json)

# $(1): where standpipe.v1 goes, $(2): where sidecar.log.v1 goes.
define generate
	$(TOOLS)/protoc/bin/python -m grpc_tools.protoc -I protos --python_out=$(1) --pyi_out=$(1) \
	    --grpc_python_out=$(1) $(sort $(wildcard protos/standpipe/v1/*.proto))
	$(TOOLS)/protoc/bin/python -m grpc_tools.protoc -I protos --python_out=$(2) --pyi_out=$(2) \
	    $(sort $(wildcard protos/sidecar/log/v1/*.proto))
	rm -f $(foreach name,error turn fact bundle,$(1)/standpipe/v1/$(name)_pb2_grpc.py)
endef

# $(1): where the OpenAPI file goes.
define describe
	mkdir -p build
	$(TOOLS)/protoc/bin/python -m grpc_tools.protoc -I protos --include_imports --include_source_info \
	    --descriptor_set_out=build/api.binpb $(sort $(wildcard protos/standpipe/v1/*.proto))
	$(TOOLS)/protoc/bin/python protos/openapi.py build/api.binpb $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) > $(1)
endef

# Those of the other languages. The plugins' versions are the runtimes' that clients/ asks for, or older.
STUB_GO := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11 google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
STUB_JAVA := com.google.protobuf:protoc:3.25.8 io.grpc:protoc-gen-grpc-java:1.82.0

$(TOOLS)/stubs/ready: Makefile
	rm -rf $(@D) && mkdir -p $(@D)
	for plugin in $(STUB_GO); do GOBIN=$(CURDIR)/$(@D) go install $$plugin || exit 1; done
	for plugin in $(STUB_JAVA); do \
	    mvn -q -B dependency:copy -Dartifact=$$plugin:exe:linux-x86_64 -DoutputDirectory=$(CURDIR)/$(@D) || exit 1; \
	    name=$$(echo $$plugin | cut -d: -f2) && mv $(@D)/$$name-*.exe $(@D)/$$name && chmod +x $(@D)/$$name; \
	done
	@touch $@

.PHONY: stubs
stubs: $(TOOLS)/stubs/ready $(TOOLS)/buf/ready $(VENV)/ready  ## Write the stubs of clients/ in Go, TypeScript and Java from protos/; needs Go, npm and Maven
	$(call generate-clients,clients)

BUF := $(CURDIR)/$(TOOLS)/buf/node_modules/.bin/buf
STUB_PATH := $(CURDIR)/$(TOOLS)/stubs:$(CURDIR)/$(TOOLS)/buf/node_modules/.bin
GOOGLE_PROTOS = $(shell $(BIN)/python -c 'import google.rpc; print(list(google.rpc.__path__)[0].removesuffix("/google/rpc"))')
STUB_TREES := go/standpipe/v1 java/src/main/java/dev/standpipe/v1 typescript/src/gen

# $(1): the folder that stands for clients/. TypeScript has no package with the messages of gRPC's errors.
define generate-clients
	rm -rf $(addprefix $(1)/,$(STUB_TREES))
	cd protos && PATH="$(STUB_PATH):$$PATH" $(BUF) generate --path standpipe -o $(CURDIR)/$(1)
	rm -rf build/google && mkdir -p build/google/google/rpc
	cp $(GOOGLE_PROTOS)/google/rpc/status.proto $(GOOGLE_PROTOS)/google/rpc/error_details.proto build/google/google/rpc/
	cd build/google && PATH="$(STUB_PATH):$$PATH" $(BUF) generate -o $(CURDIR)/$(1)/typescript/src/gen \
	    --template '{"version":"v2","plugins":[{"local":"protoc-gen-es","out":".","opt":["target=ts","import_extension=js"]}]}'
endef

.PHONY: proto-check
proto-check: $(TOOLS)/protoc/ready  ## Check that the stubs are what the protos give, and what buf says of them
	rm -rf build/proto && mkdir -p build/proto
	$(call generate,build/proto,build/proto)
	@for stub in $$(cd build/proto && find . -name '*.py*'); do \
	    case $$stub in ./sidecar/*) there=$$stub;; *) there=clients/python/$$stub;; esac; \
	    cmp -s build/proto/$$stub $$there || { echo "$$there is not what protos/ gives: run make proto"; exit 1; }; \
	done; echo "Python's stubs are what the protos give"
	$(call describe,build/proto/openapi.json)
	@cmp build/proto/openapi.json protos/openapi.json || { echo "protos/openapi.json is not what protos/ gives: run make proto"; exit 1; }
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory buf; \
	elif [ -n "$$CI" ]; then echo "npm is expected in CI, for buf"; exit 1; \
	else echo "skipped buf: no npm"; fi
	@if command -v npm >/dev/null && command -v go >/dev/null && command -v mvn >/dev/null; then \
	    $(MAKE) --no-print-directory stubs-check; \
	elif [ -n "$$CI" ]; then echo "npm, Go and Maven are expected in CI, for the stubs"; exit 1; \
	else echo "skipped the stubs of Go, TypeScript and Java: npm, Go and Maven write them"; fi

.PHONY: stubs-check
stubs-check: $(TOOLS)/stubs/ready $(TOOLS)/buf/ready $(VENV)/ready
	rm -rf build/stubs && mkdir -p build/stubs
	$(call generate-clients,build/stubs)
	@for tree in $(STUB_TREES); do \
	    diff -rq build/stubs/$$tree clients/$$tree || { echo "clients/$$tree is not what protos/ gives: run make stubs"; exit 1; }; \
	done; echo "the stubs of Go, TypeScript and Java are what the protos give"

.PHONY: buf
buf: $(TOOLS)/buf/ready
	cd protos && ../$(TOOLS)/buf/node_modules/.bin/buf lint
	cd protos && ../$(TOOLS)/buf/node_modules/.bin/buf breaking --against released.binpb

.PHONY: release-api
release-api: $(TOOLS)/buf/ready  ## Make today's protos the ones that must not be broken; done at a release
	cd protos && ../$(TOOLS)/buf/node_modules/.bin/buf build -o released.binpb

# --- measuring -----------------------------------------------------------------------------------------------

eval: setup  ## Measure recall, prefix reuse and determinism on conversations: make eval DATA=DIR
	@test -n "$(DATA)" || { echo "say which conversations: make eval DATA=DIR"; exit 2; }
	$(BIN)/standpipe eval $(DATA) --out build --models-dir $(MODELS)

eval-pii: setup  ## Measure what is found of personal data in labelled texts: make eval-pii DATA=FILE
	@test -n "$(DATA)" || { echo "say which texts: make eval-pii DATA=FILE"; exit 2; }
	$(BIN)/python -m tests.eval.pii $(DATA)

eval-engines: setup  ## The same on every pair of engines, whose bundles must be equal: make eval-engines DATA=DIR
	@test -n "$(DATA)" || { echo "say which conversations: make eval-engines DATA=DIR"; exit 2; }
	$(BIN)/python -m tests.eval.engines $(DATA) --models-dir $(STANDPIPE_MODELS_DIR)

eval-safety: setup  ## Isolation and poison on real conversations and attacks: make eval-safety DATA=DIR [ENGINES=servers]
	@test -n "$(DATA)" || { echo "say which conversations: make eval-safety DATA=DIR"; exit 2; }
	$(BIN)/python -m tests.eval.safety isolation $(DATA) --models-dir $(STANDPIPE_MODELS_DIR) --engines $(or $(ENGINES),embedded)
	$(BIN)/python -m tests.eval.safety poison $(DATA) --models-dir $(STANDPIPE_MODELS_DIR) --engines $(or $(ENGINES),embedded)

test-gpu: setup $(TOOLS)/gpu/ready  ## Everything that is promised of a GPU, on a machine that has one
	PYTHONPATH=$(TOOLS)/gpu $(BIN)/python -m tests.gpu

.PHONY: gpu
gpu:  ## All of the GPU's tests and measurements, one after another
	$(MAKE) test-gpu
	$(MAKE) eval-embed DEVICE=gpu
	$(MAKE) bench-embed DEVICE=gpu

# With CUDA's libraries: 2 GB.
$(TOOLS)/gpu/ready: pyproject.toml | $(VENV)/ready
	rm -rf $(@D) && mkdir -p $(@D)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(@D) 'onnxruntime-gpu[cuda,cudnn]>=1.28,<2'
	@touch $@

DEVICE ?= cpu
PEER ?= .cache/peer/bin/python
ON_GPU := $(if $(filter gpu,$(DEVICE)),$(TOOLS)/gpu/ready)
AT_GPU := $(if $(filter gpu,$(DEVICE)),PYTHONPATH=$(TOOLS)/gpu)

eval-embed: setup $(ON_GPU)  ## Bits alone and in company; with DATA=DIR also recall by precision: make eval-embed [DEVICE=gpu]
	$(AT_GPU) $(BIN)/python -m tests.eval.embedding --models-dir $(STANDPIPE_MODELS_DIR) invariance --device $(DEVICE)
	$(if $(DATA),$(BIN)/python -m tests.eval.embedding --models-dir $(STANDPIPE_MODELS_DIR) recall $(DATA))

bench: setup  ## Measure speed, memory and start-up as ratios; draw them
	$(BIN)/python -m tests.bench --out build

bench-sizing: setup  ## Measure what to plan a deployment with: bytes, processor time, connections
	$(BIN)/python -m tests.bench.sizing --models-dir $(STANDPIPE_MODELS_DIR)

bench-embed: setup $(ON_GPU) $(if $(filter .cache/%,$(PEER)),peer)  ## Measure embedding against sentence-transformers and the machine: make bench-embed [DEVICE=gpu]
	$(AT_GPU) $(BIN)/python -m tests.bench.embed --device $(DEVICE) --peer $(PEER)

# In a virtual environment of its own, 6 GB with CUDA's libraries; PEER=python3 measures against one that is there.
.PHONY: peer
peer:
	@cmp -s .ci/peer.lock .cache/peer/peer.lock || { rm -rf .cache/peer && $(PYTHON) -m venv .cache/peer && \
	.cache/peer/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .ci/peer.lock && \
	cp .ci/peer.lock .cache/peer/peer.lock; }

lock: $(VENV)/ready  ## Write .ci/dev.lock from pyproject.toml, and .ci/peer.lock from .ci/peer.in
	$(BIN)/python .ci/pin.py

clean:  ## Remove what was built; the model stays
	rm -rf build $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
