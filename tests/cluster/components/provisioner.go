package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// provisionerName is what the StorageClass names.
const provisionerName = "forebay.dev/host-path"

// hostPaths makes a volume as a folder under root. Kubernetes' own host-path provisioner makes folders that only root
// may write, and fsGroup does not apply to hostPath: a pod under the restricted Pod Security could not use them.
type hostPaths struct{ root string }

func (h hostPaths) Provision(
	_ context.Context, options controller.ProvisionOptions,
) (*core.PersistentVolume, controller.ProvisioningState, error) {
	path := filepath.Join(h.root, options.PVName)
	if err := os.Mkdir(path, 0o777); err != nil && !os.IsExist(err) {
		return nil, controller.ProvisioningFinished, err
	}
	if err := os.Chmod(path, 0o777); err != nil { // Mkdir's mode passes the umask
		return nil, controller.ProvisioningFinished, err
	}
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: options.PVName},
		Spec: core.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity: core.ResourceList{
				core.ResourceStorage: options.PVC.Spec.Resources.Requests[core.ResourceStorage],
			},
			PersistentVolumeSource: core.PersistentVolumeSource{
				HostPath: &core.HostPathVolumeSource{Path: path},
			},
		},
	}, controller.ProvisioningFinished, nil
}

func (h hostPaths) Delete(_ context.Context, volume *core.PersistentVolume) error {
	return os.RemoveAll(filepath.Join(h.root, volume.Name))
}

// runProvisioner serves claims of the node's StorageClass until it is told to stop.
func runProvisioner() error {
	flags := flag.NewFlagSet("host-path-provisioner", flag.ExitOnError) // the shared set has the other programs' flags
	kubeconfig := flags.String("kubeconfig", "", "file that says how to reach the API server")
	root := flags.String("root", "", "folder that holds the volumes")
	_ = flags.Parse(os.Args[1:]) // exits by itself
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	ctx := genericapiserver.SetupSignalContext()
	controller.NewProvisionController(
		ctx, client, provisionerName, hostPaths{root: *root}, controller.LeaderElection(false),
	).Run(ctx)
	return nil
}
