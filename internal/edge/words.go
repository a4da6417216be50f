package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"

	"troupe/internal/atomicfile"
	"troupe/internal/fault"
)

// This file keeps what an operator said of this edge as a whole and of weights. Like drain and maint of servers, which the judge keeps, it
// holds until the operator says otherwise: a process that takes over, or that begins after a crash, goes on with it.

const wordsFile = "operator.json"

// maxWords is how many weights are kept.
const maxWords = 4096

// words are what an operator said.
type words struct {
	path string

	speaking sync.Mutex // one operator at a time; taken before mu
	handing  bool       // a successor has read the words: he is to be told. Under speaking

	mu   sync.Mutex
	said saidWords
}

type saidWords struct {
	Drained bool                  `json:"drained"`
	Weights map[string]weightWord `json:"weights"` // by pool/server
}

// A weightWord holds while the configuration says what it said when the operator spoke.
type weightWord struct {
	Weight  int `json:"weight"`
	Instead int `json:"instead_of"`
}

// load reads the words. A file that cannot be read stops everything: to forget them would bring agents to what somebody took out.
func (w *words) load() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	text, err := os.ReadFile(w.path)
	said := saidWords{}
	if err == nil {
		err = json.Unmarshal(text, &said)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read what operators said of this edge from %s: %w; mend the file, or remove it, and this edge is ready with the weights of its configuration", w.path, err)
	}
	if said.Weights == nil {
		said.Weights = map[string]weightWord{}
	}
	w.said = said
	return nil
}

// change changes the words, on the disk first.
func (w *words) change(how func(*saidWords)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := saidWords{w.said.Drained, maps.Clone(w.said.Weights)}
	how(&next)
	if len(next.Weights) > maxWords {
		return fault.New(fault.TooLarge, "%d servers have a weight of an operator's; put it into the configuration", maxWords)
	}
	text, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(w.path, append(text, '\n'), 0o600); err != nil {
		return err
	}
	w.said = next
	return nil
}

// setWeight keeps the weight of a server; one that the configuration has anyway need not be kept.
func (w *words) setWeight(id string, weight, configured int) error {
	return w.change(func(s *saidWords) {
		if weight == configured {
			delete(s.Weights, id)
		} else {
			s.Weights[id] = weightWord{weight, configured}
		}
	})
}

// weight is what counts for a server.
func (w *words) weight(id string, configured int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if word, ok := w.said.Weights[id]; ok && word.Instead == configured {
		return word.Weight
	}
	return configured
}

func (w *words) drained() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said.Drained
}

// speak has an operator change something, unless a successor is about to take over: he would not hear of it.
func (w *words) speak(change func() error) error {
	w.speaking.Lock()
	defer w.speaking.Unlock()
	if w.handing {
		return fault.New(fault.Conflict, "another process is taking this edge over: say it again in a moment")
	}
	return change()
}

// hand notes whether a successor goes by the words of now.
func (w *words) hand(on bool) {
	w.speaking.Lock()
	defer w.speaking.Unlock()
	w.handing = on
}

// recall goes by the words on the disk.
func (e *Edge) recallWords() error {
	if err := errors.Join(e.words.load(), e.judge.Reload()); err != nil {
		return err
	}
	for _, p := range e.pools {
		if err := p.weigh(); err != nil {
			return err
		}
	}
	drained := e.words.drained()
	e.drained.Store(drained)
	if e.speaker != nil {
		e.speaker.Drain(drained)
	}
	if drained {
		e.log.Warn("this edge is in drain, as an operator said before", "remedy", "troupe edge ready")
	}
	return nil
}
