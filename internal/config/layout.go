package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// This file finds the folders of an existing Puppet installation. The vendor's
// packages and Debian's put them in different places; they are never mixed.

// A Layout is where one installation keeps its files. The zero Layout is none.
type Layout struct {
	Name        string // "puppetlabs", "debian", or "" for none
	ConfDir     string // of puppet.conf, autosign.conf, hiera.yaml
	CodeDir     string
	ServerConf  string // conf.d of puppetserver; "" when there is none
	Bootstrap   string // services.d of puppetserver
	SSLDir      string
	VarDir      string // of the server
	CADir       string
	RunDir      string
	LogDir      string
	BaseModules string // module folder that comes after the code folder's

	root string // the file system's; "/" outside of tests
}

func puppetlabs(root string) Layout {
	at := func(path string) string { return filepath.Join(root, path) }
	return Layout{
		Name: "puppetlabs", root: root,
		ConfDir: at("/etc/puppetlabs/puppet"), CodeDir: at("/etc/puppetlabs/code"),
		ServerConf: at("/etc/puppetlabs/puppetserver/conf.d"), Bootstrap: at("/etc/puppetlabs/puppetserver/services.d"),
		SSLDir: at("/etc/puppetlabs/puppet/ssl"), VarDir: at("/opt/puppetlabs/server/data/puppetserver"),
		CADir: at("/etc/puppetlabs/puppetserver/ca"), RunDir: at("/var/run/puppetlabs/puppetserver"),
		LogDir: at("/var/log/puppetlabs/puppetserver"), BaseModules: at("/opt/puppetlabs/puppet/modules"),
	}
}

func debian(root string) Layout {
	at := func(path string) string { return filepath.Join(root, path) }
	return Layout{
		Name: "debian", root: root,
		ConfDir: at("/etc/puppet"), CodeDir: at("/etc/puppet/code"),
		ServerConf: at("/etc/puppet/puppetserver/conf.d"), Bootstrap: at("/etc/puppet/puppetserver/services.d"),
		SSLDir: at("/var/lib/puppet/ssl"), VarDir: at("/var/lib/puppetserver"),
		CADir: at("/etc/puppet/puppetserver/ca"), RunDir: at("/run/puppetserver"),
		LogDir: at("/var/log/puppetserver"), BaseModules: at("/usr/share/puppet/modules"),
	}
}

// findLayout looks for an installation: one with a server before one with an
// agent only, the vendor's before Debian's.
//
// named is the setting puppet_conf, for when src names no folder.
func findLayout(src Sources, named string) (Layout, error) {
	root := src.Root
	if root == "" {
		root = "/"
	}
	switch {
	case src.ConfDir == "none", src.ConfDir == "" && named == "none":
		return Layout{root: root}, nil
	case src.ConfDir != "":
		return layoutAt(root, src.ConfDir)
	case named != "" && filepath.Base(named) != "puppet.conf":
		return Layout{root: root}, fmt.Errorf("puppet_conf: %q is not the path of a puppet.conf", named)
	case named != "":
		return layoutAt(root, filepath.Dir(named))
	}
	candidates := []Layout{puppetlabs(root), debian(root)}
	for _, marker := range []func(Layout) string{
		func(l Layout) string { return l.ServerConf },
		func(l Layout) string { return filepath.Join(l.ConfDir, "puppet.conf") },
	} {
		for _, l := range candidates {
			if exists(marker(l)) {
				return l.pruned(), nil
			}
		}
	}
	return Layout{root: root}, nil
}

// layoutAt takes a folder that somebody named: what lies beside or below it tells
// whose layout it has.
func layoutAt(root, confDir string) (Layout, error) {
	confDir, err := filepath.Abs(confDir)
	if err != nil {
		return Layout{}, fmt.Errorf("finding Puppet's configuration: %w", err)
	}
	info, err := os.Stat(confDir)
	switch {
	case err != nil:
		return Layout{root: root}, fmt.Errorf("reading Puppet's configuration: %w (name the folder of puppet.conf, or none)", err)
	case !info.IsDir():
		return Layout{root: root}, fmt.Errorf("reading Puppet's configuration: %s is not a folder; name the folder of puppet.conf, or none", confDir)
	}
	for _, l := range []Layout{puppetlabs(root), debian(root)} {
		if l.ConfDir == confDir {
			return l.pruned(), nil
		}
	}
	l := debian(root)
	outer := confDir
	if sibling := filepath.Dir(confDir); exists(filepath.Join(sibling, "puppetserver", "conf.d")) {
		l, outer = puppetlabs(root), sibling
	}
	l.ConfDir = confDir
	l.CodeDir = filepath.Join(outer, "code")
	l.ServerConf = filepath.Join(outer, "puppetserver", "conf.d")
	l.Bootstrap = filepath.Join(outer, "puppetserver", "services.d")
	l.CADir = filepath.Join(outer, "puppetserver", "ca")
	l.SSLDir = filepath.Join(confDir, "ssl")
	return l.pruned(), nil
}

// pruned forgets the server's files when there are none.
func (l Layout) pruned() Layout {
	if !exists(l.ServerConf) {
		l.ServerConf = ""
	}
	if !exists(l.Bootstrap) {
		l.Bootstrap = ""
	}
	return l
}

// exists is true also for what cannot be read: reading it will say why.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
