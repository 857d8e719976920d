package main

// Dynamic volumes for a cluster of one node. A claim whose StorageClass names this provisioner gets a
// PersistentVolume of type "local", not hostPath, so that the kubelet applies fsGroup as on real storage.
// A class with the parameter "filesystem" (ext4) gives a file system of exactly the requested size,
// so that a full disk can be tested; a class without it gives a plain directory without a limit.

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	provisionerName = "pgm.test/node"
	provisionedBy   = "pv.kubernetes.io/provisioned-by"
	selectedNode    = "volume.kubernetes.io/selected-node"
	// One node holds tens of claims at most: listing them is cheaper to understand than caches and queues.
	pollInterval = 500 * time.Millisecond
)

type provisioner struct {
	client    kubernetes.Interface
	directory string
	node      string
}

func runProvisioner(arguments []string) int {
	flags := flag.NewFlagSet("provisioner", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig file")
	directory := flags.String("directory", "", "the folder in which volumes are made")
	node := flags.String("node", "", "name of this node")
	_ = flags.Parse(arguments)

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		klog.ErrorS(err, "reading the kubeconfig")
		return 1
	}
	config.QPS, config.Burst = 50, 100
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		klog.ErrorS(err, "making the client")
		return 1
	}
	p := provisioner{client: client, directory: filepath.Clean(*directory), node: *node}
	wait.Forever(func() { p.pass(context.Background()) }, pollInterval)
	return 0
}

// pass makes the volumes that are asked for and removes those that were released. What fails is tried again in the next pass.
func (p *provisioner) pass(ctx context.Context) {
	// resourceVersion 0 is answered from the API server's watch cache
	fromCache := meta.ListOptions{ResourceVersion: "0"}
	claims, err := p.client.CoreV1().PersistentVolumeClaims("").List(ctx, fromCache)
	if err != nil {
		klog.ErrorS(err, "listing claims")
		return
	}
	for i := range claims.Items {
		claim := &claims.Items[i]
		if claim.DeletionTimestamp != nil || claim.Spec.VolumeName != "" || claim.Spec.StorageClassName == nil {
			continue
		}
		if err := p.provision(ctx, claim); err != nil {
			klog.ErrorS(err, "provisioning", "claim", klog.KObj(claim))
		}
	}
	volumes, err := p.client.CoreV1().PersistentVolumes().List(ctx, fromCache)
	if err != nil {
		klog.ErrorS(err, "listing volumes")
		return
	}
	for i := range volumes.Items {
		if err := p.reclaim(ctx, &volumes.Items[i]); err != nil {
			klog.ErrorS(err, "reclaiming", "volume", volumes.Items[i].Name)
		}
	}
}

func (p *provisioner) provision(ctx context.Context, claim *core.PersistentVolumeClaim) error {
	class, err := p.client.StorageV1().StorageClasses().Get(ctx, *claim.Spec.StorageClassName, meta.GetOptions{})
	if errors.IsNotFound(err) || (err == nil && class.Provisioner != provisionerName) {
		return nil
	}
	if err != nil {
		return err
	}
	waits := class.VolumeBindingMode != nil && *class.VolumeBindingMode == storage.VolumeBindingWaitForFirstConsumer
	if waits && claim.Annotations[selectedNode] == "" {
		return nil
	}
	// the name follows from the claim, so a second try finds the first one's volume
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(p.directory, name)
	size := claim.Spec.Resources.Requests[core.ResourceStorage]
	if err := makeVolume(path, class.Parameters["filesystem"], size.Value()); err != nil {
		return err
	}
	reclaim := core.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		reclaim = *class.ReclaimPolicy
	}
	_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: provisionerName}},
		Spec: core.PersistentVolumeSpec{
			Capacity:                      core.ResourceList{core.ResourceStorage: size},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: reclaim,
			StorageClassName:              class.Name,
			VolumeMode:                    claim.Spec.VolumeMode,
			ClaimRef: &core.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: path}},
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{{
				MatchExpressions: []core.NodeSelectorRequirement{
					{Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{p.node}},
				},
			}}}},
		},
	}, meta.CreateOptions{})
	if errors.IsAlreadyExists(err) {
		return nil
	}
	if err == nil {
		klog.InfoS("provisioned", "claim", klog.KObj(claim), "volume", name)
	}
	return err
}

func (p *provisioner) reclaim(ctx context.Context, volume *core.PersistentVolume) error {
	ours := volume.Annotations[provisionedBy] == provisionerName && volume.Spec.Local != nil &&
		filepath.Dir(volume.Spec.Local.Path) == p.directory
	if !ours || volume.Status.Phase != core.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != core.PersistentVolumeReclaimDelete {
		return nil
	}
	if err := removeVolume(volume.Spec.Local.Path); err != nil {
		return err
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{})
	if err == nil {
		klog.InfoS("removed", "volume", volume.Name)
	}
	if errors.IsNotFound(err) {
		return nil
	}
	return err
}

// makeVolume makes a folder that any user may write to; with a file system type, one of size bytes is mounted on it.
func makeVolume(path, filesystem string, size int64) error {
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if filesystem != "" && exec.Command("mountpoint", "-q", path).Run() != nil {
		image := path + ".img"
		file, err := os.Create(image)
		if err != nil {
			return err
		}
		err = file.Truncate(size)
		if closed := file.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return err
		}
		if err := run("mkfs."+filesystem, "-q", image); err != nil {
			return err
		}
		if err := run("mount", "-o", "loop", image, path); err != nil {
			return err
		}
		_ = os.Remove(filepath.Join(path, "lost+found")) // initdb and others want an empty folder
	}
	return os.Chmod(path, 0o777) // MkdirAll obeys the umask
}

func removeVolume(path string) error {
	if exec.Command("mountpoint", "-q", path).Run() == nil {
		if err := run("umount", path); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.RemoveAll(path + ".img")
}

func run(name string, arguments ...string) error {
	if output, err := exec.Command(name, arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, output)
	}
	return nil
}
