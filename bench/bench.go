// Package bench sets troupe beside the real Puppet Server, on one machine, in one run, request for request.
//
//	go test -tags=bench -count=1 -timeout=40m -run TestSideBySide -v ./bench
//
// Its tests need root, the Debian packages puppetserver, puppet-module-puppetlabs-apache and what that depends on, and
// a machine without other work. RESULTS.md is the record. The flag -only=troupe leaves the real server out.
package bench
