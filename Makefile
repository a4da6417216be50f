# make test and make demo need root on Debian 12 with Go and make: they install
# what they need from Debian's packages. Everything else is a plain go command.
.DEFAULT_GOAL := help
GOFLAGS_LINT := -modfile=tools/lint/go.mod
PKGS := ./...

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## one static binary: ./troupe
	CGO_ENABLED=0 go build -trimpath -ldflags=-buildid= -o troupe ./cmd/troupe

demo: packages build ## a member on loopback and a real puppet agent against it (ONCE=1: end by itself)
	./troupe demo $(if $(ONCE),--once)

test: packages chroots ## all tests that CI runs
	@sh tools/packages.sh $$(cat parity/corpus/packages.txt)
	go vet $(PKGS)
	CGO_ENABLED=1 go test -race -shuffle=on -timeout=60m $(PKGS)
	go test -count=1 -timeout=20m -run '^TestSimulation$$' ./internal/carrier -seeds 300

long: packages chroots-all ## agents 5.5 and OpenVox 9, 100 kills, the real server on an exported CA, backups in a real S3 server, 10,000 simulated troupes: 2 h
	@sh tools/packages.sh puppetserver e2fsprogs knot haproxy bird2 frr
	go test -tags=long -count=1 -timeout=80m -skip '^TestFaults' ./internal/troupetest/... ./internal/journal/... ./internal/store/... ./internal/edge/... ./internal/agentroute/... ./internal/carrier/...
	$(MAKE) simulation

faults: packages ## every fault on two sites of real processes, and 1,000 damaged files: 25 min on a quiet machine (DAMAGES=180)
	go test -tags=failpoint -count=1 ./internal/failpoint
	go test -tags=long -count=1 -timeout=120m -v -run '^TestFaults' ./internal/troupetest
	go test -count=1 -timeout=120m -v -run '^TestDamagedFiles' ./internal/server -damages $(or $(DAMAGES),1000)

edge-sites: packages chroots ## edges at two sites with a real router: stops, kills, hangs, black holes, take-overs, SRV, real agents, 8 min; prints the figures of docs/anycast.md
	@sh tools/packages.sh bird2
	go test -tags=long -count=1 -timeout=40m -v -run '^TestEdgeSites' ./internal/troupetest

edge-puppetserver: packages chroots ## an edge before two real puppetservers, both modes, servers killed under real agents: 10 min on a quiet machine
	@sh tools/packages.sh puppetserver
	go test -tags=long -count=1 -timeout=60m -v -run '^TestAnEdgeInFrontOfTwoPuppetServers$$' ./internal/troupetest

edge-schedule: packages ## random troubles for members and edges under load, every run looked at (SEED=N repeats one, SECONDS=600)
	go test -tags=long -count=1 -timeout=120m -v -run '^TestNoRunFailsUnderARandomSchedule$$' ./internal/troupetest $(if $(SEED),-seed $(SEED))

edge-herd: packages ## all agents at once through an edge after an outage (NODES=1000)
	go test -tags=long -count=1 -timeout=60m -v -run '^TestAHerdAfterAnOutageIsServedThroughAnEdge$$' ./internal/troupetest

nats-away: packages ## two members whose NATS is away for an hour, while agents run (AWAY=10m)
	go test -count=1 -timeout=3h -v -run '^TestTwoMembersShareANATS$$' ./internal/troupetest -nats-away $(or $(AWAY),1h)

simulation: ## 10,000 troupes that are cut, killed and misdated in one process, an hour (SEEDS=200)
	go test -count=1 -timeout=3h -run '^TestSimulation$$' ./internal/carrier -seeds $(or $(SEEDS),10000)

parity: packages ## every catalog of the corpus beside Puppet Server 7.9.5 and 8.7.0 (an hour)
	@sh tools/packages.sh puppetserver puppetdb puppet-terminus-puppetdb postgresql octocatalog-diff $$(cat parity/corpus/packages.txt)
	@sh tools/chroots/make.sh bullseye trixie trixie-server
	go test -tags=parity -count=1 -timeout=180m -p=1 -v ./parity/...

fuzz: ## every fuzz target for a minute
	@sh tools/fuzz.sh 60s

BENCH = go test -tags=bench -count=1 -v $(if $(SHORT),-short)
bench: packages ## troupe beside Puppet Server and its CA with 100,000 certificates, 30 min on a quiet machine; writes bench/RESULTS.md (SHORT=1: a trial)
	@sh tools/packages.sh puppetserver puppetdb puppet-terminus-puppetdb postgresql puppet-module-puppetlabs-apache
	$(BENCH) -timeout=90m -run '^Test(SideBySide|ExportedResources|TwoWorkers|HundredThousandCertificates)$$' ./bench

growth: packages ## cost at 100, 1,000 and 10,000 nodes, 8 min; draws bench/growth.svg
	@sh tools/packages.sh puppet-module-puppetlabs-apache
	$(BENCH) -timeout=30m -run '^TestGrowth$$' ./bench

soak: packages ## an hour at 80 % load with kills and code changes (DURATION=3m, NODES=10000)
	@sh tools/packages.sh puppet-module-puppetlabs-apache
	$(BENCH) -timeout=24h -run '^TestSoak$$' ./bench

herd: packages ## 2,000 agents at once, 15 min (NODES=300)
	@sh tools/packages.sh puppet-module-puppetlabs-apache
	$(BENCH) -timeout=40m -run '^TestHerd$$' ./bench

bench-edge: packages ## an edge beside the real HAProxy: failed runs, latency, CPU, handshakes, 15 min (SHORT=1: a trial; DURATION=5m: of each front's failed runs)
	@sh tools/packages.sh haproxy
	$(BENCH) -timeout=60m -run '^TestEdge$$' ./bench

check: ## formatting, vet, lint, tidy
	go vet $(PKGS)
	go tool $(GOFLAGS_LINT) golangci-lint run $(PKGS)
	go mod tidy -diff

fmt: ## format
	go tool $(GOFLAGS_LINT) golangci-lint fmt
	go fix $(PKGS)

dead: ## exported code that nothing reaches
	go tool -modfile=tools/go.mod deadcode -test ./...

packages: ## Debian packages that tests and demo use
	@sh tools/packages.sh gcc libc6-dev bird2

chroots: ## agent 8.10 (Debian 13) in a chroot, cached between runs
	@sh tools/chroots/make.sh trixie

chroots-all:
	@sh tools/chroots/make.sh bullseye trixie forky

.PHONY: help build demo test long faults edge-sites edge-puppetserver edge-schedule edge-herd nats-away simulation parity fuzz bench growth soak herd bench-edge check fmt dead packages chroots chroots-all
