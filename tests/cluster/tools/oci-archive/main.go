// Command oci-archive makes and reads OCI image archives, which containerd imports without a registry.
//
//	oci-archive build <archive> <config.json> <name> <layer>...
//	oci-archive names <archive>
//
// A layer is a tar archive, or folder=/path: the folder's content at that path of the image, with the owners and
// modes it has and a fixed time, so that equal content gives an equal digest. Layers stay uncompressed: the archives
// never leave this machine. config.json is the "config" object of an image configuration (Env, Entrypoint, User ...).
// names prints one line per image: its name, a space, the digest of its manifest.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	imageName    = "io.containerd.image.name"
	refName      = "org.opencontainers.image.ref.name" // other tools; containerd takes it when it is a whole name
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

var epoch = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

func main() {
	var err error
	switch arguments := os.Args[1:]; {
	case len(arguments) >= 5 && arguments[0] == "build":
		err = build(arguments[1], arguments[2], arguments[3], arguments[4:])
	case len(arguments) == 2 && arguments[0] == "names":
		err = names(arguments[1])
	default:
		err = errors.New("usage: oci-archive build <archive> <config.json> <name> <layer>... | names <archive>")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "oci-archive:", err)
		os.Exit(1)
	}
}

func build(archive, configPath, name string, layers []string) (err error) {
	runConfig, err := os.ReadFile(configPath)
	if err != nil {
		return err
	}
	var descriptors []descriptor
	var digests []string
	var files []string
	for _, layer := range layers {
		if folder, path, ok := strings.Cut(layer, "="); ok {
			layer = fmt.Sprintf("%s.layer%d", archive, len(files))
			defer os.Remove(layer)
			if err := pack(layer, folder, path); err != nil {
				return err
			}
		}
		digest, size, err := digestFile(layer)
		if err != nil {
			return err
		}
		files = append(files, layer)
		digests = append(digests, digest)
		descriptors = append(descriptors, descriptor{MediaType: layerType, Digest: digest, Size: size})
	}
	config, err := json.Marshal(map[string]any{
		"created": epoch, "architecture": runtime.GOARCH, "os": "linux", "config": json.RawMessage(runConfig),
		"rootfs": map[string]any{"type": "layers", "diff_ids": digests},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "layers": descriptors,
		"config": descriptor{MediaType: configType, Digest: digestBytes(config), Size: int64(len(config))},
	})
	if err != nil {
		return err
	}
	root, err := json.Marshal(index{SchemaVersion: 2, MediaType: indexType, Manifests: []descriptor{{
		MediaType: manifestType, Digest: digestBytes(manifest), Size: int64(len(manifest)),
		Annotations: map[string]string{imageName: name},
	}}})
	if err != nil {
		return err
	}

	out, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := tar.NewWriter(out)
	// the index comes first, so that names need not read the layers
	for _, entry := range []struct {
		name    string
		content []byte
	}{
		{"index.json", root},
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{blob(digestBytes(manifest)), manifest},
		{blob(digestBytes(config)), config},
	} {
		if err := add(w, entry.name, int64(len(entry.content)), bytes.NewReader(entry.content)); err != nil {
			return err
		}
	}
	for i, layer := range files {
		file, err := os.Open(layer)
		if err != nil {
			return err
		}
		err = add(w, blob(digests[i]), descriptors[i].Size, file)
		file.Close()
		if err != nil {
			return err
		}
	}
	return w.Close()
}

func names(archive string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	for r := tar.NewReader(file); ; {
		header, err := r.Next()
		if err != nil {
			return fmt.Errorf("%s: looking for index.json: %w", archive, err)
		}
		if filepath.Clean(header.Name) != "index.json" {
			continue
		}
		var found index
		if err := json.NewDecoder(r).Decode(&found); err != nil {
			return err
		}
		for _, manifest := range found.Manifests {
			name := manifest.Annotations[imageName]
			if name == "" {
				name = manifest.Annotations[refName]
			}
			if !strings.Contains(name, "/") {
				return fmt.Errorf("%s: an image without a whole name: %q", archive, name)
			}
			fmt.Println(name, manifest.Digest)
		}
		return nil
	}
}

// pack writes the folder's content below the path to a tar archive; parents of the path belong to root.
func pack(archive, folder, path string) (err error) {
	out, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := tar.NewWriter(out)
	path = strings.Trim(filepath.Clean("/"+path), "/")
	var parents []string
	for parent := filepath.Dir(path); path != "" && parent != "."; parent = filepath.Dir(parent) {
		parents = append([]string{parent}, parents...)
	}
	for _, parent := range parents {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: parent + "/", Mode: 0o755, ModTime: epoch}); err != nil {
			return err
		}
	}
	err = filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(folder, file)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return packFile(w, file, filepath.Join(path, relative), info)
	})
	return errors.Join(err, w.Close())
}

func packFile(w *tar.Writer, file, name string, info fs.FileInfo) error {
	if name == "." {
		return nil
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(file); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	header.Name, header.ModTime, header.Uname, header.Gname = name, epoch, "", ""
	header.AccessTime, header.ChangeTime = time.Time{}, time.Time{}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		header.Uid, header.Gid = int(owner.Uid), int(owner.Gid)
	}
	if info.IsDir() {
		header.Name += "/"
	}
	if err := w.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	content, err := os.Open(file)
	if err != nil {
		return err
	}
	defer content.Close()
	_, err = io.Copy(w, content)
	return err
}

func add(w *tar.Writer, name string, size int64, content io.Reader) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644, ModTime: epoch}); err != nil {
		return err
	}
	_, err := io.Copy(w, content)
	return err
}

func blob(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

func digestBytes(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func digestFile(path string) (string, int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, file)
	return "sha256:" + hex.EncodeToString(hash.Sum(nil)), size, err
}
