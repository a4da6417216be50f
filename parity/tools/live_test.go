//go:build parity

package tools

import (
	"testing"

	"troupe/internal/troupetest"
)

// This file runs every tool against both servers.

func TestToolsDoTheSameWithBothServers(t *testing.T) {
	real, member := startPeers(t)
	compareTools(t, real, member)
}

func compareTools(t *testing.T, real, member peer) {
	t.Helper()
	asReal, asMember := asAdmin(t, real), asAdmin(t, member)
	for _, api := range []string{"3", "4"} {
		t.Run("octocatalog-diff, API "+api, func(t *testing.T) {
			compareWithOctocatalog(t, asReal.on(t), asMember.on(t), api)
		})
	}
	t.Run("Bolt and Choria", func(t *testing.T) {
		same(t, useTasks(asReal.on(t)), useTasks(asMember.on(t)), whatAnswered, taskClientsDiffer)
	})
	t.Run("smart proxy, certificates", func(t *testing.T) {
		same(t, keepCertificates(asReal.on(t)), keepCertificates(asMember.on(t)), whatAnswered, nil)
	})
	t.Run("smart proxy, autosign", func(t *testing.T) {
		same(t, autosign(asReal.on(t)), autosign(asMember.on(t)), whatSaid, nil)
	})
	t.Run("smart proxy, environments", func(t *testing.T) {
		same(t, importEnvironments(asReal.on(t)), importEnvironments(asMember.on(t)), whatAnswered, smartProxyDiffers)
	})
	for _, g := range []troupetest.Generation{troupetest.Puppet7, troupetest.Puppet8} {
		t.Run("puppet "+string(g), func(t *testing.T) {
			same(t, subcommands(t, real, g), subcommands(t, member, g), whatSaid, saysDifferent)
		})
	}
}
