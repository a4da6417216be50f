package code

import (
	"os"
	"testing"
)

func TestSameRubyIsSaidOfVersionsThatDifferInWhatRubyDoesNotLoad(t *testing.T) {
	const module = "environments/production/modules/m/"
	start := map[string]string{
		"environments/production/manifests/site.pp": "", "environments/production/environment.conf": "",
		module + "manifests/init.pp": "class m { }", module + "lib/puppet/functions/f.rb": "# 1", module + "lib/puppet_x/words.txt": "one",
		module + "extra/late.rb": "# 1", module + "functions/g.pp": "", module + "templates/a.erb": "", module + "data/common.yaml": "",
		"base/other/manifests/init.pp": "class other { }", "base/other/lib/x.rb": "# 1",
	}
	for _, c := range []struct {
		name   string
		change func(*testing.T, *site)
		same   bool
	}{
		{"a manifest changes", write(module+"manifests/init.pp", "class m { notify { a: } }"), true},
		{"a manifest comes", write(module+"manifests/new.pp", "class m::new { }"), true},
		{"a manifest goes", remove(module + "manifests/init.pp"), true},
		{"a function of the language, a template and data change", func(t *testing.T, s *site) {
			lay(t, s.path(""), map[string]string{module + "functions/g.pp": "# 2", module + "templates/a.erb": "2", module + "data/common.yaml": "a: 1"})
		}, true},
		{"a module without Ruby comes", write("environments/production/modules/n/manifests/init.pp", "class n { }"), true},
		{"a module with Ruby comes", write("environments/production/modules/n/lib/facter/f.rb", ""), false},
		{"a module with Ruby goes", remove("base/other"), false},
		{"a Ruby file changes", write(module+"lib/puppet/functions/f.rb", "# 2"), false},
		{"a Ruby file elsewhere changes", write(module+"extra/late.rb", "# 2"), false},
		{"a Ruby file comes", write(module+"lib/puppet/functions/h.rb", ""), false},
		{"a Ruby file goes", remove(module + "lib/puppet/functions/f.rb"), false},
		{"what a Ruby file may read changes", write(module+"lib/puppet_x/words.txt", "two"), false},
		{"a Ruby file of the basemodulepath changes", write("base/other/lib/x.rb", "# 2"), false},
		{"environment.conf changes", write("environments/production/environment.conf", "manifest = other"), false},
		{"a link comes", write(module+"more", "-> lib"), false},
		{"a file becomes a folder with Ruby", func(t *testing.T, s *site) {
			remove(module+"functions/g.pp")(t, s)
			write(module+"functions/g.pp/x.rb", "")(t, s)
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, start)
			before := s.current(t)
			c.change(t, s)
			after := s.current(t)
			if before.ID == after.ID {
				t.Fatal("the change made no version")
			}
			if !before.SameRuby(before) {
				t.Error("a version differs from itself")
			}
			if forth, back := before.SameRuby(after), after.SameRuby(before); forth != c.same || back != c.same {
				t.Errorf("same Ruby is %v and %v, want %v", forth, back, c.same)
			}
		})
	}
}

func write(name, text string) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		t.Helper()
		lay(t, s.path(""), map[string]string{name: text})
	}
}

func remove(name string) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		t.Helper()
		must(t, os.RemoveAll(s.path(name)))
	}
}
